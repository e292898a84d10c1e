//! Licence expressions, and whether a list of licences satisfies one.
//!
//! Grammar, after the SPDX specification 2.3, annex D, with cargo's old `/` for OR:
//!
//! ```text
//! any  = all *( ("OR" / "/") all )
//! all  = one *( "AND" one )
//! one  = "(" any ")" / id [ "WITH" id ]
//! ```

use std::iter::Peekable;
use std::vec::IntoIter;

use anyhow::{Context, Result, bail};

/// True when the licences in `allowed` suffice for `expression`. An entry of the list is an id, or an id WITH an
/// exception. "Or later" (a final `+`) is satisfied by the version named.
pub(super) fn satisfied(expression: &str, allowed: &[&str]) -> Result<bool> {
    let mut words = words(expression).into_iter().peekable();
    let result = any(&mut words, allowed)?;
    match words.next() {
        None => Ok(result),
        Some(word) => bail!("{word} is too much"),
    }
}

fn words(expression: &str) -> Vec<String> {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    spaced.split_whitespace().map(str::to_owned).collect()
}

type Words = Peekable<IntoIter<String>>;

fn any(words: &mut Words, allowed: &[&str]) -> Result<bool> {
    let mut result = all(words, allowed)?;
    while words.next_if(|word| word == "OR").is_some() {
        result |= all(words, allowed)?;
    }
    Ok(result)
}

fn all(words: &mut Words, allowed: &[&str]) -> Result<bool> {
    let mut result = one(words, allowed)?;
    while words.next_if(|word| word == "AND").is_some() {
        result &= one(words, allowed)?;
    }
    Ok(result)
}

fn one(words: &mut Words, allowed: &[&str]) -> Result<bool> {
    let word = words.next().context("it ends too early")?;
    if word == "(" {
        let result = any(words, allowed)?;
        return match words.next_if(|word| word == ")") {
            Some(_) => Ok(result),
            None => bail!("a bracket isn't closed"),
        };
    }
    if ["OR", "AND", "WITH", ")"].contains(&word.as_str()) {
        bail!("{word} stands where a licence should");
    }
    let mut license = word.trim_end_matches('+').to_owned();
    if words.next_if(|word| word == "WITH").is_some() {
        let exception = words.next().context("WITH what?")?;
        license = format!("{license} WITH {exception}");
    }
    Ok(allowed.contains(&license.as_str()))
}

#[cfg(test)]
mod tests {
    use super::satisfied;

    #[test]
    fn expressions() {
        let allowed = ["MIT", "Apache-2.0", "ISC", "Apache-2.0 WITH LLVM-exception", "MPL-2.0"];
        for (expression, expected) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("MIT/GPL-3.0", true),
            ("MIT OR GPL-3.0 AND GPL-2.0", true),
            ("(MIT OR GPL-3.0) AND GPL-2.0", false),
            ("ISC AND (Apache-2.0 OR GPL-2.0)", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("MIT WITH LLVM-exception", false),
            ("GPL-2.0 WITH Classpath-exception-2.0 OR MIT", true),
            ("MPL-2.0+", true),
            ("((MIT))", true),
        ] {
            assert_eq!(satisfied(expression, &allowed).expect(expression), expected, "{expression}");
        }
    }

    #[test]
    fn what_is_no_expression() {
        for expression in ["", "MIT OR", "(MIT", "MIT)", "MIT ISC", "AND MIT", "MIT WITH"] {
            assert!(satisfied(expression, &["MIT"]).is_err(), "{expression}");
        }
    }
}
