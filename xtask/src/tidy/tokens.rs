//! Rust text as a flat list of tokens with lines, and the few questions that the checks ask of it.
//!
//! Comments are gone (doc comments are attributes), so a rule about code isn't broken by a sentence about it. A
//! syntax tree would know more, and cost xtask a parser to compile; the checks only need names and brackets.

use proc_macro2::{Delimiter, LexError, Spacing, TokenStream, TokenTree};

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An identifier or a keyword.
    Word,
    /// One character of punctuation, or `::`.
    Mark,
    /// A literal, quotes included.
    Literal,
    /// An opening bracket, with the place of its closing one in the list.
    Open(usize),
    /// A closing bracket.
    Close,
}

/// A token and where it was.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    /// What it is.
    pub(crate) kind: Kind,
    /// As written.
    pub(crate) text: String,
    /// Its line, from 1.
    pub(crate) line: usize,
    /// True inside an item that only exists for tests.
    pub(crate) test: bool,
}

impl Token {
    fn is(&self, text: &str) -> bool {
        self.text == text && self.kind != Kind::Literal
    }
}

/// A path as `a::b::c`, from an expression, a type or one leaf of a use declaration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// The names in order; a glob is `*`, and the `self` of a use group is left out.
    pub(crate) names: Vec<String>,
    /// Line of the last name.
    pub(crate) line: usize,
    /// True inside an item that only exists for tests.
    pub(crate) test: bool,
}

impl Path {
    /// True when the path is these names, or starts with them.
    pub(crate) fn starts_with(&self, names: &[&str]) -> bool {
        self.names.len() >= names.len() && self.names.iter().zip(names).all(|(ours, theirs)| ours == theirs)
    }
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    /// Its name, without its type.
    pub(crate) name: String,
    /// Line of `fn`.
    pub(crate) line: usize,
    /// Lines from `fn` to the closing brace, both counted.
    pub(crate) lines: usize,
}

/// The tokens of a file, or the line at which it stops being Rust.
pub(crate) fn lex(text: &str) -> Result<Vec<Token>, usize> {
    let stream: TokenStream = text.parse().map_err(|error: LexError| error.span().start().line)?;
    let mut tokens = Vec::new();
    flatten(stream, &mut tokens);
    mark_tests(&mut tokens);
    Ok(tokens)
}

/// Every path and every leaf of every use declaration.
pub(crate) fn paths(tokens: &[Token]) -> Vec<Path> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        // After a turbofish or a qualified type the rest of a path stands alone; that does no harm.
        at = match tokens[at].kind {
            Kind::Word => path(tokens, at, Vec::new(), &mut found),
            _ => at + 1,
        };
    }
    found
}

/// Every function that has a body.
pub(crate) fn functions(tokens: &[Token]) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let Some(name) = tokens.get(at + 1).filter(|next| token.is("fn") && next.kind == Kind::Word) else {
            continue;
        };
        let end = skip_to(tokens, at, |token| token.is(";") || token.is("{"));
        if let Some(Kind::Open(close)) = tokens.get(end).map(|token| token.kind) {
            let lines = tokens[close].line - token.line + 1;
            found.push(Function { name: name.text.clone(), line: token.line, lines });
        }
    }
    found
}

/// The tokens inside each attribute's brackets.
pub(crate) fn attributes(tokens: &[Token]) -> Vec<&[Token]> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        if let Some((open, close)) = attribute(tokens, at).filter(|_| token.is("#")) {
            found.push(&tokens[open + 1..close]);
        }
    }
    found
}

/// The macros called: name and line.
pub(crate) fn macros(tokens: &[Token]) -> impl Iterator<Item = (&str, usize)> {
    tokens.windows(3).filter_map(|three| {
        let call = three[0].kind == Kind::Word && three[1].is("!") && matches!(three[2].kind, Kind::Open(_));
        call.then_some((three[0].text.as_str(), three[0].line))
    })
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    // A path's `::` comes as two colons of which the first is joined to the second.
    let mut joined_colon = false;
    for tree in stream {
        let after_colon = std::mem::replace(&mut joined_colon, is_joined_colon(&tree));
        if let (true, TokenTree::Punct(_), Some(last)) = (after_colon, &tree, tokens.last_mut()) {
            last.text.push(':');
            joined_colon = false;
            continue;
        }
        let line = tree.span().start().line;
        let mut push = |kind, text| tokens.push(Token { kind, text, line, test: false });
        match tree {
            TokenTree::Ident(word) => push(Kind::Word, word.to_string()),
            TokenTree::Punct(mark) => push(Kind::Mark, mark.as_char().to_string()),
            TokenTree::Literal(literal) => push(Kind::Literal, literal.to_string()),
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                let at = tokens.len();
                tokens.push(Token { kind: Kind::Close, text: open.to_owned(), line, test: false });
                flatten(group.stream(), tokens);
                tokens[at].kind = Kind::Open(tokens.len());
                let line = group.span_close().start().line;
                tokens.push(Token { kind: Kind::Close, text: close.to_owned(), line, test: false });
            }
        }
    }
}

fn is_joined_colon(tree: &TokenTree) -> bool {
    matches!(tree, TokenTree::Punct(mark) if mark.as_char() == ':' && mark.spacing() == Spacing::Joint)
}

/// Where the brackets of the attribute that starts at `at` are.
fn attribute(tokens: &[Token], at: usize) -> Option<(usize, usize)> {
    let open = if tokens.get(at + 1)?.is("!") { at + 2 } else { at + 1 };
    match tokens.get(open)? {
        Token { kind: Kind::Open(close), text, .. } if text == "[" => Some((open, *close)),
        _ => None,
    }
}

/// Marks what `#[cfg(test)]` and `#[test]` stand before. A cfg that names `test` beside other conditions counts, one
/// with `not` doesn't.
fn mark_tests(tokens: &mut [Token]) {
    for at in 0..tokens.len() {
        let Some((open, close)) = attribute(tokens, at).filter(|_| tokens[at].is("#")) else { continue };
        let inside = &tokens[open + 1..close];
        let names = |name: &str| inside.iter().any(|token| token.is(name));
        let first = inside.first().map_or("", |token| token.text.as_str());
        if (first == "cfg" && names("test") && !names("not")) || (first == "test" && inside.len() == 1) {
            let inner = tokens[at + 1].is("!");
            let end = if inner { tokens.len() } else { item_end(tokens, close + 1) };
            tokens[at..end].iter_mut().for_each(|token| token.test = true);
        }
    }
}

/// The place after the item, field, arm or statement that starts at `at`.
fn item_end(tokens: &[Token], mut at: usize) -> usize {
    while tokens.get(at).is_some_and(|token| token.is("#")) {
        match attribute(tokens, at) {
            Some((_, close)) => at = close + 1,
            None => return at,
        }
    }
    let item =
        ["fn", "mod", "impl", "struct", "enum", "trait", "union", "use", "const", "static", "type", "macro_rules"];
    let (mut seen_item, mut seen_use) = (false, false);
    while let Some(token) = tokens.get(at) {
        seen_item |= token.kind == Kind::Word && item.contains(&token.text.as_str());
        seen_use |= token.is("use");
        match token.kind {
            Kind::Close => return at,
            Kind::Open(close) if token.is("{") && !seen_use => return close + 1,
            Kind::Open(close) => at = close + 1,
            _ if token.is(";") || (token.is(",") && !seen_item) => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// The first place from `at` on that `stop` names, jumping over brackets that it doesn't.
fn skip_to(tokens: &[Token], mut at: usize, stop: impl Fn(&Token) -> bool) -> usize {
    while let Some(token) = tokens.get(at) {
        if stop(token) {
            return at;
        }
        at = match token.kind {
            Kind::Open(close) => close + 1,
            _ => at + 1,
        };
    }
    at
}

/// Reads the path at `at`, use groups included, and returns the place after it.
fn path(tokens: &[Token], mut at: usize, mut names: Vec<String>, found: &mut Vec<Path>) -> usize {
    loop {
        let Some(token) = tokens.get(at) else { return at };
        match token.kind {
            Kind::Open(close) if token.is("{") && !names.is_empty() => {
                let mut inside = at + 1;
                while inside < close {
                    path(&tokens[..close], inside, names.clone(), found);
                    inside = skip_to(&tokens[..close], inside, |token| token.is(",")) + 1;
                }
                return close + 1;
            }
            Kind::Word if token.is("self") && !names.is_empty() => {}
            Kind::Word => names.push(token.text.clone()),
            Kind::Mark if token.is("*") && !names.is_empty() => names.push("*".to_owned()),
            // A turbofish, or something that isn't a path at all.
            _ => {
                emit(names, token, found);
                return at;
            }
        }
        if !tokens.get(at + 1).is_some_and(|next| next.is("::")) {
            emit(names, token, found);
            return at + 1;
        }
        at += 2;
    }
}

fn emit(names: Vec<String>, token: &Token, found: &mut Vec<Path>) {
    if !names.is_empty() {
        found.push(Path { names, line: token.line, test: token.test });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let tokens = lex(text).expect("lexes");
        paths(&tokens).iter().filter(|path| path.names.len() > 1).map(|path| path.names.join("::")).collect()
    }

    #[test]
    fn paths_and_use_groups_are_spelt_out() {
        assert_eq!(names("fn f() -> a::B { x.y(::c::d(e: ::f::g)) }"), ["a::B", "c::d", "f::g"]);
        assert_eq!(
            names("use std::{fs, net::{self, IpAddr as A, udp::*}, io};"),
            ["std::fs", "std::net", "std::net::IpAddr", "std::net::udp::*", "std::io"]
        );
        assert_eq!(names("let a = Vec::<x::Y>::new();"), ["x::Y"]);
        assert_eq!(names("m!(p::q, \"r::s\") // t::u"), ["p::q"]);
    }

    #[test]
    fn functions_with_bodies_and_their_lines() {
        let text = "trait T { fn a(); fn b() {} }\nfn c(x: [u8; { 3 }])\nwhere\n    u8: Copy,\n{\n}\ntype F = fn(u8);";
        let tokens = lex(text).expect("lexes");
        let found: Vec<_> = functions(&tokens).into_iter().map(|f| (f.name, f.line, f.lines)).collect();
        assert_eq!(found, [("b".to_owned(), 1, 1), ("c".to_owned(), 2, 5)]);
    }

    #[test]
    fn what_only_tests_see_is_marked() {
        let check = |text: &str, expected: &[(&str, bool)]| {
            let tokens = lex(text).expect("lexes");
            for (name, test) in expected {
                let token = tokens.iter().find(|token| token.text == *name).expect(name);
                assert_eq!(token.test, *test, "{name} in {text}");
            }
        };
        check("#[cfg(test)] #[x] mod t { fn inside() {} } fn outside() {}", &[("inside", true), ("outside", false)]);
        check("#[cfg(test)] use a::{inside, b}; use outside;", &[("inside", true), ("outside", false)]);
        check("#[cfg(not(test))] use outside;", &[("outside", false)]);
        check("#[cfg(all(test, unix))] impl<A, B> C { inside } outside", &[("inside", true), ("outside", false)]);
        check("struct S { #[cfg(test)] inside: u8, outside: u8 }", &[("inside", true), ("outside", false)]);
        check("#[test] fn t() { inside } fn outside() {}", &[("inside", true), ("outside", false)]);
        check("#![cfg(test)] fn inside() {}", &[("inside", true)]);
    }

    #[test]
    fn attributes_and_macros() {
        let tokens = lex("#![allow(a)] #[test] fn f() { m!(x); a != (b) }").expect("lexes");
        let found: Vec<_> = attributes(&tokens).iter().map(|inside| inside[0].text.clone()).collect();
        assert_eq!(found, ["allow", "test"]);
        assert_eq!(macros(&tokens).collect::<Vec<_>>(), [("m", 1)]);
    }

    #[test]
    fn the_line_of_what_does_not_lex() {
        assert!(lex("fn a() {}\n }").is_err());
    }
}
