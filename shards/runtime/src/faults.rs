//! Faults on purpose, for tests of what happens then. Only builds with debug assertions have them; elsewhere nothing is ever
//! injected, and the compiler leaves the questions out.

#[cfg(debug_assertions)]
mod injected {
    use std::sync::LazyLock;

    static FAULTS: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
        let faults = std::env::var("RINGPOST_FAULTS").unwrap_or_default();
        let pair = |fault: &str| fault.split_once('=').map(|(point, argument)| (point.to_owned(), argument.to_owned()));
        faults.split(',').filter_map(pair).collect()
    });

    pub(super) fn has(point: &str, argument: &str) -> bool {
        FAULTS.iter().any(|(at, with)| at == point && with == argument)
    }
}

/// Whether `RINGPOST_FAULTS` (`point=argument,point=argument`) asks for a fault at this point with this argument.
#[cfg(debug_assertions)]
pub fn is_injected(point: &str, argument: &str) -> bool {
    injected::has(point, argument)
}

/// No: this build has no faults on purpose.
#[cfg(not(debug_assertions))]
#[inline]
pub const fn is_injected(_point: &str, _argument: &str) -> bool {
    false
}
