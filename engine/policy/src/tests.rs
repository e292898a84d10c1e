//! Tests of the policy: who is served as what, and what a core at its limits says.

use super::*;
use ringpost_smtp::Mailbox;

const CAPACITY: Capacity =
    Capacity { connections: 10, messages_in_flight: 2, message_memory: ByteCount(100), spool_backlog: ByteCount(100) };

const STAFF: &str = "alice\n\"john doe\"\nsales-*\n\
    info: alice, bob@listed.example, Sales-EU, \"alice\", alice+info\n\
    help: info, carol+help@any.example\nhidden: bob@secret.example\npostmaster: alice\n";

fn domain(name: &str, recipients: Recipients) -> Domain {
    Domain { name: name.into(), recipients, ..Domain::default() }
}

fn options() -> Options {
    let listed = domain("listed.example", Recipients::Listed(vec!["Bob".into(), "\"x y\"".into()]));
    let domains = vec![
        domain("any.example", Recipients::Any),
        listed.clone(),
        domain("staff.example", Recipients::File("staff".into())),
        Domain { subaddress: None, tls_required: true, ..Domain { name: "secret.example".into(), ..listed } },
    ];
    Options { domains, hops_max: 3, ..Options::default() }
}

fn directories(files: &[(&str, &str)]) -> HashMap<String, Arc<Directory>> {
    let parse = |path, text| Directory::parse(path, text).unwrap_or_else(|faults| panic!("{faults:?}"));
    files.iter().map(|(path, text)| ((*path).to_owned(), Arc::new(parse(path, text)))).collect()
}

fn policy() -> Policy {
    Policy::new(options(), &directories(&[("staff", STAFF)])).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn rcpt(address: &str) -> Rcpt {
    Rcpt::new(Path::Mailbox(Mailbox::parse(address).expect("address")))
}

/// How a recipient is served and as what, or the reply that refuses it.
fn check(address: &str, want: Result<(Match, &[&str]), Reply>) {
    let got = policy().recipient(&rcpt(address), false);
    let want =
        want.map(|(how, addresses)| Served { addresses: addresses.iter().copied().map(Box::from).collect(), how });
    assert_eq!(got, want, "{address}");
}

#[test]
fn recipients() {
    check("x@any.example", Ok((Match::Any, &["x@any.example"])));
    check("X+y@ANY.example", Ok((Match::Any, &["X+y@ANY.example"])));
    check("bOb@listed.example", Ok((Match::Exact, &["bOb@listed.example"])));
    check("bob+x@listed.example", Ok((Match::Subaddress, &["bob+x@listed.example"])));
    check("Postmaster@listed.example", Ok((Match::Postmaster, &["Postmaster@listed.example"])));
    check("alice@listed.example", Err(replies::NO_SUCH_USER));
    check("x@other.example", Err(replies::RELAY_DENIED));
    check("x@[192.0.2.1]", Err(replies::RELAY_DENIED));
    check("sales-eu@staff.example", Ok((Match::Pattern, &["sales-eu@staff.example"])));
    check("x@staff.example", Err(replies::NO_SUCH_USER));
}

#[test]
fn quotes_that_need_not_be_make_no_other_mailbox() {
    check("\"bob\"@listed.example", Ok((Match::Exact, &["bob@listed.example"])));
    check("\"b\\ob\"@any.example", Ok((Match::Any, &["bob@any.example"])));
    check("\"x\\ y\"@listed.example", Ok((Match::Exact, &["\"x y\"@listed.example"])));
    check("\"a\\\\\\\"b\"@any.example", Ok((Match::Any, &["\"a\\\\\\\"b\"@any.example"])));
    check("\"\\\"a\\\"\"@any.example", Ok((Match::Any, &["\"\\\"a\\\"\"@any.example"])));
    check("\"a@b\"@any.example", Ok((Match::Any, &["\"a@b\"@any.example"])));
    check("\"\"@any.example", Ok((Match::Any, &["\"\"@any.example"])));
}

#[test]
fn aliases_lead_to_each_address_once() {
    // The detail of a target stays, that of the alias does not.
    let info = ["alice@staff.example", "bob@listed.example", "Sales-EU@staff.example", "alice+info@staff.example"];
    check("Info+x@staff.example", Ok((Match::Alias, &info)));
    let help = [info[0], info[1], info[2], info[3], "carol+help@any.example"];
    check("help@staff.example", Ok((Match::Alias, &help)));
    check("postmaster@staff.example", Ok((Match::Alias, &info[..1])));
}

#[test]
fn the_postmaster_of_the_server_is_that_of_the_first_domain() {
    let served = policy().recipient(&Rcpt::new(Path::Postmaster), false).expect("exists");
    assert_eq!(served.addresses, [Box::from("postmaster@any.example")]);
    let nobody = Policy::new(Options::default(), &HashMap::new()).unwrap_or_else(|faults| panic!("{faults:?}"));
    assert_eq!(nobody.recipient(&Rcpt::new(Path::Postmaster), false), Err(replies::RELAY_DENIED));
    assert_eq!(nobody.recipient(&Rcpt::new(Path::Null), false), Err(replies::BAD_RECIPIENT));
}

#[test]
fn a_domain_may_want_tls() {
    for (address, secure, want) in [
        ("bob@secret.example", false, Err(530)),
        ("nobody@secret.example", false, Err(530)),
        ("bob@secret.example", true, Ok(())),
        ("hidden@staff.example", false, Err(530)),
        ("hidden@staff.example", true, Ok(())),
        ("bob+x@secret.example", true, Err(550)),
    ] {
        let got = policy().recipient(&rcpt(address), secure).map(|_| ()).map_err(|reply| reply.code());
        assert_eq!(got, want, "{address}");
    }
}

/// The faults of a policy with these files for a.example and b.example.
fn check_faults(a: &str, b: &str, want: &[&str]) {
    let file = |path: &str| Recipients::File(path.into());
    let domains =
        vec![domain("a.example", file("a")), domain("b.example", file("b")), domain("any.example", Recipients::Any)];
    let faults = Policy::new(Options { domains, ..Options::default() }, &directories(&[("a", a), ("b", b)])).err();
    let told: Vec<String> = faults.unwrap_or_default().iter().map(ToString::to_string).collect();
    assert_eq!(told, want, "{a} {b}");
}

#[test]
fn targets_that_are_nobody() {
    check_faults("x\ni: x, x+y, x@A.example, y@b.example, z@any.example, postmaster@b.example\n", "y\n", &[]);
    check_faults(
        "alice\ni: alcie, alice,  bob@b.example, x@elsewhere.example\n",
        "bobb\nj: i@a.example\n",
        &[
            "a:2:4: \"alcie\" is nobody in a.example; did you mean \"alice\"?",
            "a:2:19: \"bob\" is nobody in b.example; did you mean \"bobb\"?",
            "a:2:34: mail is not taken for the domain \"elsewhere.example\", and an alias does not send mail elsewhere",
        ],
    );
}

#[test]
fn aliases_of_two_domains_that_lead_to_each_other() {
    let itself = "this alias leads to itself, by way of other domains or of a detail";
    check_faults(
        "i: j@b.example\nk: i\n",
        "j: i@a.example\n",
        &[&format!("a:1:1: {itself}"), &format!("b:1:1: {itself}")],
    );
    check_faults("i: i+x\n", "", &[&format!("a:1:1: {itself}")]);
    check_faults("i: i@a.example\n", "", &[&format!("a:1:1: {itself}")]);
}

#[test]
fn aliases_that_lead_too_far() {
    let chain = |to: usize| (1..to).map(|n| format!("a{n}: a{}\n", n + 1)).collect::<String>();
    let deep = "this alias leads to a mailbox by way of more than 10 aliases";
    check_faults(&format!("{}a9: j@b.example\n", chain(9)), "x\nj: x\n", &[]);
    check_faults(&format!("{}a10: j@b.example\n", chain(10)), "x\nj: x\n", &[&format!("a:1:1: {deep}")]);
    let many = |n: usize| (0..n).map(|n| format!("x{n}@any.example")).collect::<Vec<_>>().join(", ");
    check_faults(&format!("i: {}\n", many(ALIAS_ADDRESSES_MAX)), "", &[]);
    let too_many = format!("a:1:1: this alias leads to more than {ALIAS_ADDRESSES_MAX} addresses");
    check_faults(&format!("i: {}\n", many(ALIAS_ADDRESSES_MAX + 1)), "", &[&too_many]);
}

#[test]
fn a_mesh_of_aliases_takes_no_time() {
    // Forty aliases on each of nine levels, each of which names all of the next: 40^9 ways lead to one mailbox.
    let level = |n: usize| (0..40).map(|at| format!("l{n}n{at}")).collect::<Vec<_>>();
    let mut text = String::from("x\n");
    for n in 0..9 {
        let targets = if n == 8 { "x".to_owned() } else { level(n + 1).join(", ") };
        level(n).iter().for_each(|name| text += &format!("{name}: {targets}\n"));
    }
    let faults = Policy::new(
        Options { domains: vec![domain("a.example", Recipients::File("a".into()))], ..Options::default() },
        &directories(&[("a", &text)]),
    );
    let faults = faults.err().expect("too many lookups");
    assert!(faults[0].to_string().contains("this alias leads to more than"), "{}", faults[0]);
}

#[test]
fn a_missing_directory_is_told() {
    let faults = Policy::new(options(), &HashMap::new()).err().expect("staff is missing");
    assert_eq!(
        faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["staff: the recipients of staff.example are not loaded"]
    );
}

#[test]
fn a_crowded_core_delays_and_a_full_one_refuses() {
    let load = |connections| Load { connections, ..Load::default() };
    let policy = |connections_soft_percent, millis| {
        let banner_delay = Span::millis(millis);
        Policy::new(Options { connections_soft_percent, banner_delay, ..Options::default() }, &HashMap::new())
            .unwrap_or_else(|faults| panic!("{faults:?}"))
    };
    let delay = Admission::Delay(Span::millis(100));
    for (percent, millis, connections, want) in [
        (80, 100, 7, Admission::Serve),
        (80, 100, 8, delay),
        (80, 100, 9, delay),
        (80, 100, 10, Admission::Refuse(Limit::Connections)),
        (81, 100, 8, Admission::Serve),
        (100, 100, 9, Admission::Serve),
        (80, 0, 9, Admission::Serve),
        (1, 100, 0, Admission::Serve),
        (1, 100, 1, delay),
    ] {
        let got = policy(percent, millis).connection(&load(connections), &CAPACITY);
        assert_eq!(got, want, "{connections} at {percent}%, {millis} ms");
    }
}

#[test]
fn a_core_at_its_limit_refuses_for_a_while() {
    let load = Load::default();
    assert_eq!(policy().sender(&load, &CAPACITY), Ok(()));
    for (full, want) in [
        (Load { messages_in_flight: 2, ..load }, Busy::Limit(Limit::MessagesInFlight)),
        (Load { message_memory: ByteCount(100), ..load }, Busy::Limit(Limit::MessageMemory)),
        (Load { spool_backlog: ByteCount(100), ..load }, Busy::Limit(Limit::SpoolBacklog)),
        (Load { spool_failing: true, ..load }, Busy::SpoolFailing),
    ] {
        assert_eq!(policy().sender(&full, &CAPACITY), Err(want), "{full:?}");
        assert_eq!(want.reply().code(), 452, "{want:?}");
        assert_eq!(want.limit().is_none(), want == Busy::SpoolFailing);
    }
}

#[test]
fn a_looping_message_is_refused() {
    let headers = |hops| Headers { hops, message_id: None };
    assert_eq!(policy().message(&headers(3)), Decision::Accept);
    assert_eq!(policy().message(&headers(4)).refusal(), Some(replies::LOOP));
}

#[test]
fn own_names() {
    for (name, own) in [
        ("mx.example.com", true),
        ("MX.example.com.", true),
        ("any.example", true),
        ("Listed.Example", true),
        ("sub.any.example", false),
        ("", false),
        ("[192.0.2.1]", false),
    ] {
        assert_eq!(policy().is_own_name(name, "mx.example.com"), own, "{name}");
    }
    assert!(!policy().is_own_name("", ""), "no name is nobody's");
}

#[test]
fn a_policy_can_be_shared_by_all_shards() {
    fn shared<T: Send + Sync>() {}
    shared::<Policy>();
    shared::<BanSet>();
    shared::<Directory>();
}
