//! Which target an address goes to.

use std::collections::HashMap;

/// The targets of the domains. Asked at every attempt, so a changed configuration holds for what is queued too.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    by_domain: HashMap<Box<str>, usize>,
}

impl Routes {
    /// From domains and the number of each one's target.
    pub fn new<'a>(domains: impl IntoIterator<Item = (&'a str, usize)>) -> Self {
        let by_domain = domains.into_iter().map(|(name, target)| (name.to_ascii_lowercase().into(), target));
        Self { by_domain: by_domain.collect() }
    }

    /// The number of the address's target; nothing if no domain takes it any more.
    pub fn target(&self, address: &str) -> Option<usize> {
        let (_, domain) = address.rsplit_once('@')?;
        self.by_domain.get(domain.to_ascii_lowercase().as_str()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domain_decides() {
        let routes = Routes::new([("a.example", 0), ("b.example", 1)]);
        assert_eq!(routes.target("x@A.example"), Some(0));
        assert_eq!(routes.target("\"x@a.example\"@b.example"), Some(1));
        assert_eq!((routes.target("x@c.example"), routes.target("x")), (None, None));
    }
}
