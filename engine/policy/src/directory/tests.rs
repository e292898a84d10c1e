//! Tests of the recipients file: what is found by which rule, and what is said of faults.

use super::*;
use proptest::prelude::*;

fn directory(text: &str) -> Directory {
    Directory::parse("f", text).unwrap_or_else(|faults| panic!("{faults:?}"))
}

/// How a local part is found, and the targets if it is an alias.
fn check(directory: &Directory, local: &str, want: Option<(Match, &[&str])>) {
    let found = directory.find(local, Some('+'));
    let got = found.map(|found| (found.how, found.targets.iter().map(|target| &*target.text).collect::<Vec<_>>()));
    assert_eq!(got, want.map(|(how, targets)| (how, targets.to_vec())), "{local}");
}

/// The faults of a text, as they are shown.
fn check_faults(text: &str, want: &[&str]) {
    let faults = Directory::parse("f", text).err().unwrap_or_default();
    assert_eq!(faults.iter().map(ToString::to_string).collect::<Vec<_>>(), want, "{text}");
}

const FILE: &str = "\u{feff}# The staff.\r\nalice\nBob   # on leave\n\n\t\"john doe\"\nżółw\nsales-*\n*-bounces+*@\n";

#[test]
fn lookups() {
    let text = FILE.replace("@", "");
    let listed = directory(&format!(
        "{text}\"a*b\"\ninfo: Alice, \"john doe\",c@B.example # all\n\"in\\fo2\":bob\nvip+x: bob\n"
    ));
    let mailbox = |how| Some((how, &[][..]));
    check(&listed, "alice", mailbox(Match::Exact));
    check(&listed, "ALICE", mailbox(Match::Exact));
    check(&listed, "\"alice\"", mailbox(Match::Exact));
    check(&listed, "\"a\\lice\"", mailbox(Match::Exact));
    check(&listed, "bob", mailbox(Match::Exact));
    check(&listed, "bob+", mailbox(Match::Subaddress));
    check(&listed, "Bob+lists+x", mailbox(Match::Subaddress));
    check(&listed, "+bob", None);
    check(&listed, "\"john doe\"", mailbox(Match::Exact));
    check(&listed, "\"john doe+x\"", mailbox(Match::Subaddress));
    check(&listed, "john", None);
    check(&listed, "żółw", mailbox(Match::Exact));
    check(&listed, "ŻÓŁW", None);
    check(&listed, "sales-", mailbox(Match::Pattern));
    check(&listed, "Sales-EU", mailbox(Match::Pattern));
    check(&listed, "sales", None);
    check(&listed, "list-bounces+alice=a.example", mailbox(Match::Pattern));
    check(&listed, "a*b", mailbox(Match::Exact));
    check(&listed, "axb", None);
    check(&listed, "info", Some((Match::Alias, &["Alice", "\"john doe\"", "c@b.example"])));
    check(&listed, "info+x", Some((Match::Alias, &["Alice", "\"john doe\"", "c@b.example"])));
    check(&listed, "info2", Some((Match::Alias, &["bob"])));
    check(&listed, "vip+x", Some((Match::Alias, &["bob"])));
    check(&listed, "vip+y", None);
    check(&listed, "on", None);
    check(&listed, "", None);
    assert_eq!(listed.len(), 10);
}

#[test]
fn everybody_comes_last() {
    let listed = directory("*\nalice\nx: alice\n");
    check(&listed, "alice", Some((Match::Exact, &[])));
    check(&listed, "x", Some((Match::Alias, &["alice"])));
    check(&listed, "anybody", Some((Match::Everybody, &[])));
}

#[test]
fn a_site_may_have_another_separator_or_none() {
    let listed = directory("mary-ann\nmary\n");
    for (separator, local, want) in [
        (Some('-'), "mary-ann", Some(Match::Exact)),
        (Some('-'), "mary-x", Some(Match::Subaddress)),
        (Some('+'), "mary-x", None),
        (Some('+'), "mary+x", Some(Match::Subaddress)),
        (None, "mary+x", None),
        (Some('·'), "mary·x", Some(Match::Subaddress)),
    ] {
        assert_eq!(listed.find(local, separator).map(|found| found.how), want, "{local}");
    }
    assert_eq!(without_detail("a+b+c", Some('+')), "a");
    assert_eq!(without_detail("+b", Some('+')), "+b");
}

#[test]
fn a_list_has_names_only() {
    let listed = Directory::listed(["Alice", "x*", "\"b c\"", "alice"]);
    check(&listed, "alice", Some((Match::Exact, &[])));
    check(&listed, "x*", Some((Match::Exact, &[])));
    check(&listed, "xy", None);
    check(&listed, "\"b c\"", Some((Match::Exact, &[])));
    assert_eq!(listed.len(), 3);
}

#[test]
fn faults_of_names() {
    check_faults(
        "ok\nalice@example.com\n  a..b\nbob carol\nx = y, z\n\"open\na,b\n*..*\nok2 # fine\n",
        &[
            "f:2:1: \"alice@example.com\" is not a local part: it has an \"@\"; only what stands before it belongs here; \
             did you mean \"alice\"?",
            "f:3:3: \"a..b\" is not a local part",
            "f:4:5: more than one name in a line; an alias has a \":\" behind its name",
            "f:5:3: more than one name in a line; did you mean \"x: y, z\"?",
            "f:6:1: the quotes are not closed",
            "f:7:2: more than one name in a line; an alias has a \":\" behind its name",
            "f:8:1: \"*..*\" is not a local part",
        ],
    );
    let long = "l".repeat(65);
    check_faults(&long, &["f:1:1: 65 octets are too long: no address has more than 64"]);
}

#[test]
fn faults_of_aliases() {
    check_faults(
        "żó: \nb:a,\nc: a b\nd: x*\n*e: a\nf: a..b@c\nd2: a,,b\n: a\n",
        &[
            "f:1:5: an address is missing here",
            "f:2:5: an address is missing here",
            "f:3:6: a \",\" is missing between \"a\" and this",
            "f:4:4: the target \"x*\" has a \"*\"; mail goes to one name",
            "f:5:1: the alias \"*e\" has a \"*\"; an alias is one name",
            "f:6:4: \"a..b@c\" is neither a local part nor an address",
            "f:7:7: an address is missing here",
            "f:8:1: \"\" is not a local part",
        ],
    );
}

#[test]
fn faults_of_what_is_there_twice() {
    check_faults(
        "alice\nbob\nAlice\n\"bob\"\ninfo: alice\nINFO: bob\nbob: alice\n",
        &[
            "f:2:1: \"bob\" is an alias too, in line 7; it can't be both",
            "f:3:1: this name is there already, in line 1",
            "f:4:1: \"bob\" is an alias too, in line 7; it can't be both",
            "f:4:1: this name is there already, in line 2",
            "f:6:1: the alias \"INFO\" is there already, in line 5",
        ],
    );
}

#[test]
fn aliases_that_lead_to_themselves() {
    check_faults("a: x\n a: a\n", &["f:2:2: the alias \"a\" is there already, in line 1"][..]);
    check_faults("me: Me\n", &["f:1:1: this alias leads to itself: me -> me"]);
    check_faults(
        "x\na: b, x\nb: c\nc: a\nd: a\ne: f\nf: e, x\ng: x\n",
        &["f:2:1: this alias leads to itself: a -> b -> c -> a", "f:6:1: this alias leads to itself: e -> f -> e"],
    );
}

#[test]
fn aliases_that_are_too_deep() {
    let chain =
        |n: usize| (1..n).map(|n| format!("a{n}: a{}, x\n", n + 1)).collect::<String>() + &format!("a{n}: x\nx\n");
    check_faults(&chain(ALIAS_DEPTH_MAX), &[]);
    check_faults(&chain(ALIAS_DEPTH_MAX + 1), &["f:1:1: this alias leads to a mailbox by way of more than 10 aliases"]);
    check_faults(&chain(5000), &["f:4990:1: this alias leads to a mailbox by way of more than 10 aliases"]);
}

#[test]
fn what_is_too_large_is_refused() {
    let faults = Directory::parse("f", &"# x\n".repeat(LINES_MAX + 1)).expect_err("too many lines");
    assert_eq!(faults[0].to_string(), format!("f:{}:1: the file has more than {LINES_MAX} lines", LINES_MAX + 1));
    let long = format!("# {}", "x".repeat(LINE_MAX));
    check_faults(&long, &[&format!("f:1:{}: the line is longer than {LINE_MAX} octets", LINE_MAX + 1)]);
    let patterns: String = (0..=PATTERNS_MAX).map(|n| format!("{n}*\n")).collect();
    check_faults(&patterns, &["f:1001:1: there are 1000 patterns before it, more are too many"]);
    let faults = Directory::parse("f", &"a b\n".repeat(1000)).expect_err("all lines are bad");
    assert_eq!(faults.len(), FAULTS_MAX);
    assert!(faults[FAULTS_MAX - 1].reason.ends_with("(and more, which are not shown)"));
}

#[test]
fn a_million_names_take_a_few_bytes_each() {
    let text: String = (0..LINES_MAX).map(|n| format!("user{:08}\n", n * 7)).collect();
    let listed = directory(&text);
    assert_eq!(listed.len(), LINES_MAX);
    check(&listed, "user06999993", Some((Match::Exact, &[])));
    check(&listed, "user06999994", None);
    assert_eq!(listed.names.bytes(), LINES_MAX * (12 + 4));
}

#[test]
fn guesses_at_what_was_meant() {
    let listed = directory("alice\nbob\ninfo: bob\n");
    for (name, guess) in [("alcie", Some("alice")), ("inof", Some("info")), ("Bobb", Some("bob")), ("zzzzz", None)] {
        assert_eq!(listed.nearest(name), guess, "{name}");
    }
}

proptest! {
    /// Whatever the text: no panic, faults within the text, and what parses can be asked.
    #[test]
    fn any_text_is_read_without_harm(text in "([ab*\"\\\\:,@#. é\t]{0,9}\n){0,8}", local in "[ab\"\\\\+é*.]{0,6}") {
        match Directory::parse("f", &text) {
            Ok(directory) => drop(directory.find(&local, Some('+'))),
            Err(faults) => {
                prop_assert!(!faults.is_empty());
                for fault in faults {
                    let line = text.lines().nth(fault.line as usize - 1);
                    prop_assert!(line.is_some_and(|line| fault.column as usize <= line.chars().count() + 1), "{}", fault);
                }
            }
        }
    }

    /// Quoting a local part in any way does not change what is found.
    #[test]
    fn all_ways_to_quote_mean_the_same(names in prop::collection::vec("[a-c]{1,2}", 1..5), asked in "[a-c]{1,2}") {
        let listed = Directory::listed(names.iter().map(String::as_str));
        let escaped: String = asked.chars().flat_map(|c| ['\\', c]).collect();
        for way in [format!("\"{asked}\""), format!("\"{escaped}\""), asked.to_uppercase()] {
            prop_assert_eq!(listed.find(&way, None), listed.find(&asked, None));
        }
    }
}
