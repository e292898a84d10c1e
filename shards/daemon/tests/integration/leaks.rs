//! Twenty thousand clients that reset their connections at every stage of a session leave nothing behind.

use crate::support::net::{client_address, reset};
use crate::support::programs::{Guarded, program};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::{Random, lines, message};
use crate::support::{eventually, wait_until};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Connections in all.
const RESETS: u64 = 20_000;

/// Clients at a time.
const CLIENTS: u64 = 8;

/// Networks that they come from.
const NETWORKS: u64 = 50;

/// How long a client waits for the server's first word.
const MOMENT: Duration = Duration::from_millis(5);

/// The network among them that is banned.
const BANNED: u64 = 7;

/// Gauges that tell something else than what is under way.
const LASTING: [&str; 3] = ["ringpost_spool_segments", "ringpost_spool_free_bytes", "ringpost_config_epoch"];

/// Which listener.
#[derive(Clone, Copy)]
enum Door {
    Steered,
    Unsteered,
    Implicit,
    Proxied,
}

/// How far a client gets before it resets the connection.
struct Stage {
    doors: &'static [Door],
    /// What it says; a polite client takes a reply before each.
    says: Vec<Vec<u8>>,
}

const OPEN: &[Door] = &[Door::Steered, Door::Unsteered];

fn stages(hello: &[u8]) -> Vec<Stage> {
    let stage = |doors, says: &[&[u8]]| Stage { doors, says: says.iter().map(|piece| piece.to_vec()).collect() };
    let envelope: &[u8] = b"EHLO a.example\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<alice@example.com>\r\n";
    let data = [envelope, b"DATA\r\n"].concat();
    let starttls: &[u8] = b"EHLO a.example\r\nSTARTTLS\r\n";
    let body = lines(3, 30_000).into_bytes();
    let whole = [b"BDAT 500 LAST\r\n".as_slice(), &message("whole", &lines(4, 1000))[..500]].concat();
    let half = &hello[..hello.len() / 2];
    let header: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 5000 25\r\n";
    vec![
        stage(OPEN, &[]),
        stage(OPEN, &[b"EHL"]),
        stage(OPEN, &[b"EHLO a.example\r\n", b"MAIL FR"]),
        stage(OPEN, &[envelope, b""]),
        stage(OPEN, &[&data, b"Subject: half a li"]),
        stage(OPEN, &[&data, &body]),
        stage(OPEN, &[envelope, b"BDAT 100000 LAST\r\n", &body]),
        stage(OPEN, &[envelope, &whole]),
        stage(OPEN, &[starttls, b"", half]),
        stage(OPEN, &[starttls, b"", hello]),
        stage(OPEN, &[starttls, b"", b"no handshake"]),
        stage(&[Door::Implicit], &[]),
        stage(&[Door::Implicit], &[half]),
        stage(&[Door::Implicit], &[hello]),
        stage(&[Door::Proxied], &[&header[..20]]),
        stage(&[Door::Proxied], &[header]),
        stage(&[Door::Proxied], &[header, &data]),
        stage(&[Door::Proxied], &[b"no header"]),
    ]
}

/// The first message of a TLS client, as OpenSSL says it.
fn client_hello() -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let to = listener.local_addr().expect("bound").to_string();
    let mut command = Command::new(program("openssl", "openssl"));
    command.args(["s_client", "-connect", &to]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _client = Guarded::spawn(&mut command);
    let (mut stream, _) = listener.accept().expect("a client");
    let mut head = [0; 5];
    stream.read_exact(&mut head).expect("the head of a record");
    let mut hello = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    stream.read_exact(&mut hello).expect("a record");
    [head.as_slice(), &hello].concat()
}

/// One client, from connecting to the reset.
fn come_and_go(stages: &[Stage], doors: &[SocketAddr], random: &mut Random) -> std::io::Result<()> {
    let stage = &stages[random.below(stages.len() as u64) as usize];
    let door = stage.doors[random.below(stage.doors.len() as u64) as usize];
    let address = match door {
        Door::Proxied => Ipv4Addr::LOCALHOST.into(),
        _ => client_address(random.below(NETWORKS) as u8, 1 + random.below(200) as u8),
    };
    let mut client = Client::connect_from(address, doors[door as usize]);
    let polite = matches!(door, Door::Steered | Door::Unsteered) && random.below(2) == 0;
    for piece in &stage.says {
        if polite && client.try_reply()?.is_none() {
            break;
        }
        client.try_send(piece)?;
    }
    let mut stream = client.into_stream();
    // Who resets at once is mostly gone before the server has taken the connection, or finds everything at once.
    if !polite && random.below(4) > 0 {
        stream.set_read_timeout(Some(MOMENT))?;
        // Whatever is heard, or nothing.
        let _ = stream.read(&mut [0; 64]);
    }
    reset(stream);
    Ok(())
}

fn settings() -> Settings {
    let settings = Settings::default().cores(2).set("spool", "inline_max = \"8KiB\"");
    let settings = settings.listener("steered", "starttls").listener("unsteered", "starttls");
    let settings = settings.listener_line("steer = false").listener("implicit", "implicit");
    let settings = settings.listener("proxied", "starttls").listener_line("proxy_from = [\"127.0.0.1\"]");
    // Everything that is counted by address is, and nothing is refused for it.
    let scopes = ["ip", "network"].into_iter();
    let kinds = ["connections", "connection_rate", "messages", "recipients", "bytes"];
    let keys = scopes.flat_map(|scope| kinds.iter().map(move |kind| format!("{kind}_per_{scope} = 900000000")));
    let settings = keys.fold(settings, |settings, key| settings.set("limits", &key));
    let rules = ["error", "handshake-failure", "limit"];
    rules.iter().fold(settings, |settings, offence| {
        let offence = format!("offence = \"{offence}\"");
        settings.entry("bans.rule", &[&offence, "count = 65000", "window = \"1s\"", "duration = \"1s\""])
    })
}

/// The gauges that are not 0, of those that should be when nothing is under way.
fn not_zero(server: &Server) -> Vec<(String, u64)> {
    let (text, metrics) = (server.get("/metrics").1, server.metrics());
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" gauge"));
    // What is of the process, and not of a shard, tells of no session.
    let of_shards = |name: &&str| text.lines().any(|line| line.starts_with(&format!("{name}{{shard=")));
    let names: Vec<&str> = types.filter(|name| !LASTING.contains(name)).filter(of_shards).collect();
    assert!(names.len() > 10, "where are the gauges? {names:?}");
    let values = names.into_iter().map(|name| (name.to_owned(), metrics.total(name)));
    values.filter(|(_, value)| *value > 0).collect()
}

#[test]
fn twenty_thousand_resets_leave_every_gauge_at_zero() {
    let server = Server::start(settings());
    let descriptors = || descriptors_of(server.id());
    let banned = format!("127.1.{BANNED}.0/24");
    server.tell(&["ban", "add", &banned]).ok();
    Client::hello(server.smtp()).deliver("a@example.org", &["alice@example.com"], &message("first", "x\r\n"));
    server.maildir("example.com/alice").only();
    server.wait_for_rest();
    let before = descriptors();
    let (stages, doors) = (stages(&client_hello()), &server.home.smtp);
    let seed = Random::seed();
    eprintln!("seed {seed}");
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let stages = &stages;
            scope.spawn(move || {
                let mut random = Random::new(seed ^ client << 32);
                for _ in 0..RESETS / CLIENTS {
                    // The server may be first to end a connection, of the banned ones for one.
                    let _ = come_and_go(stages, doors, &mut random);
                }
            });
        }
    });
    server.tell(&["ban", "rm", &banned]).ok();
    let zero = eventually(|| not_zero(&server).is_empty().then_some(()));
    assert!(zero.is_some(), "still not zero: {:?}", not_zero(&server));
    check_counts(&server);
    wait_until("sockets and files are closed", || descriptors() <= before + 2);
    for shard in ["shard-0000", "shard-0001"] {
        let body = server.home.state_dir().join("spool").join(shard).join("body");
        assert_eq!(std::fs::read_dir(body).expect("a folder").count(), 0, "body files are left");
    }
    Client::hello(server.smtp()).deliver("a@example.org", &["last@example.com"], &message("last", "x\r\n"));
    server.maildir("example.com/last").only();
    assert_eq!(server.errors(), "");
}

/// How many sockets and body files a process has open.
fn descriptors_of(process: u32) -> usize {
    let folder = std::fs::read_dir(format!("/proc/{process}/fd")).expect("it runs");
    // One may be closed while we look.
    let targets = folder.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let names = targets.map(|target| target.to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("socket:") || name.contains("/body/")).count()
}

/// Every connection ended once, and all stages were reached.
#[track_caller]
fn check_counts(server: &Server) {
    let metrics = server.metrics();
    let opened = metrics.total("ringpost_sessions_opened_total");
    assert!(opened > RESETS / 2, "only {opened} connections came through");
    let ended = ["closed", "refused"].map(|how| metrics.total(&format!("ringpost_sessions_{how}_total")));
    assert_eq!(ended.iter().sum::<u64>(), opened, "closed and refused: {ended:?}");
    for (name, label) in [
        ("ringpost_bans_refused_total", ""),
        ("ringpost_messages_accepted_total", ""),
        ("ringpost_recipients_accepted_total", ""),
        ("ringpost_tls_handshakes_failed_total", ""),
        ("ringpost_proxy_headers_total", "outcome=\"accepted\""),
        ("ringpost_proxy_headers_total", "outcome=\"malformed\""),
        ("ringpost_mesh_questions_total", ""),
        ("ringpost_smtp_replies_total", "class=\"3xx\""),
    ] {
        assert!(metrics.sum(name, label) > 100, "{name} {label}: {}", metrics.sum(name, label));
    }
    for name in ["ringpost_sessions_panicked_total", "ringpost_accept_errors_total", "ringpost_ledger_overflow_total"] {
        assert_eq!(metrics.total(name), 0, "{name}");
    }
}
