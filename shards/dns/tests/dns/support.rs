//! A DNS server that says what a test tells it to, and a shard to ask it from.

use crossbeam::channel::unbounded;
use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, CNAME, MX, PTR, SOA, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use ringpost_base::{Deadline, ShardId, Span};
use ringpost_control::Board;
use ringpost_dns::{Dns, Options};
use ringpost_metrics::Block;
use ringpost_runtime::{Plan, Services, cores, start, tick};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the server does with a question.
#[derive(Clone)]
pub(crate) enum Script {
    /// Answers with these records.
    Answer(Vec<Record>),
    /// The same over TCP; over UDP it says that there is more than fits.
    Long(Vec<Record>),
    /// Says that there is nothing, with the negative time, if any.
    Nothing(ResponseCode, Option<u32>),
    /// Answers with an error.
    Error(ResponseCode),
    /// Answers with bytes that are no DNS message, behind the right id.
    Garbage,
    /// Keeps silent.
    Silence,
}

#[derive(Default)]
struct Zone {
    scripts: HashMap<(String, RecordType), Script>,
    /// For all names that end so, unless they have a script of their own.
    endings: HashMap<String, Script>,
    asked: Vec<(String, RecordType)>,
}

/// The server: on one port of 127.0.0.1, UDP and TCP, until the test's process ends.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let (udp, tcp) = bind();
        let address = udp.local_addr().expect("bound");
        let server = Self { address, zone: Arc::default() };
        let (on_udp, on_tcp) = (server.clone(), server.clone());
        std::thread::spawn(move || on_udp.serve_udp(&udp));
        std::thread::spawn(move || tcp.incoming().flatten().for_each(|stream| on_tcp.serve_tcp(stream)));
        server
    }

    pub(crate) fn script(&self, name: &str, kind: RecordType, script: Script) {
        self.zone.lock().expect("sound").scripts.insert((name.to_owned(), kind), script);
    }

    pub(crate) fn script_all(&self, ending: &str, script: Script) {
        self.zone.lock().expect("sound").endings.insert(ending.to_owned(), script);
    }

    /// An A record for a name.
    pub(crate) fn address_of(&self, name: &str, address: [u8; 4]) {
        self.script(name, RecordType::A, Script::Answer(vec![a(name, 300, address)]));
    }

    /// How often something was asked whose name ends so, repetitions included.
    pub(crate) fn asked(&self, ending: &str) -> usize {
        let zone = self.zone.lock().expect("sound");
        zone.asked.iter().filter(|(name, _)| name.ends_with(ending)).count()
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        let mut buffer = [0; 4_096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            if let Some(answer) = self.answer(&buffer[..length], false) {
                let _ = socket.send_to(&answer, from);
            }
        }
    }

    fn serve_tcp(&self, mut stream: TcpStream) {
        let mut length = [0; 2];
        while stream.read_exact(&mut length).is_ok() {
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            let Ok(()) = stream.read_exact(&mut query) else { return };
            let Some(answer) = self.answer(&query, true) else { continue };
            let framed = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
            let Ok(()) = stream.write_all(&framed) else { return };
        }
    }

    fn answer(&self, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let query = Message::from_vec(query).expect("hickory asks well");
        let question = query.queries.first().expect("one question").clone();
        let name = question.name().to_ascii().trim_end_matches('.').to_owned();
        let mut message = Message::response(query.metadata.id, OpCode::Query);
        message.metadata.recursion_available = true;
        message.add_query(question.clone());
        match self.look(&name, question.query_type()) {
            Script::Answer(records) => drop(message.add_answers(records)),
            Script::Long(records) if tcp => drop(message.add_answers(records)),
            Script::Long(_) => message.metadata.truncation = true,
            Script::Error(code) => message.metadata.response_code = code,
            Script::Nothing(code, ttl) => {
                message.metadata.response_code = code;
                message.add_authorities(ttl.map(soa));
            }
            Script::Garbage => return Some([&query.metadata.id.to_be_bytes()[..], &[0xff; 50]].concat()),
            Script::Silence => return None,
        }
        Some(message.to_vec().expect("encodes"))
    }

    fn look(&self, name: &str, kind: RecordType) -> Script {
        let mut zone = self.zone.lock().expect("sound");
        zone.asked.push((name.to_owned(), kind));
        let by_ending =
            || zone.endings.iter().find(|(ending, _)| name.ends_with(ending.as_str())).map(|(_, script)| script);
        let script = zone.scripts.get(&(name.to_owned(), kind)).or_else(by_ending);
        script.cloned().unwrap_or(Script::Nothing(ResponseCode::NXDomain, Some(60)))
    }
}

/// Both sockets on one port.
fn bind() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("bound")) {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both UDP and TCP");
}

pub(crate) fn name(text: &str) -> Name {
    let mut name = Name::from_labels(text.split('.').map(str::as_bytes)).expect("a name");
    name.set_fqdn(true);
    name
}

pub(crate) fn record(owner: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name(owner), ttl, data)
}

pub(crate) fn a(owner: &str, ttl: u32, address: [u8; 4]) -> Record {
    record(owner, ttl, RData::A(A(address.into())))
}

pub(crate) fn alias(owner: &str, ttl: u32, target: &str) -> Record {
    record(owner, ttl, RData::CNAME(CNAME(name(target))))
}

pub(crate) fn pointer(owner: &str, target: Name) -> Record {
    record(owner, 300, RData::PTR(PTR(target)))
}

pub(crate) fn mx(owner: &str, preference: u16, exchange: Name) -> Record {
    record(owner, 300, RData::MX(MX::new(preference, exchange)))
}

pub(crate) fn txt(owner: &str, strings: &[&[u8]]) -> Record {
    record(owner, 300, RData::TXT(TXT::from_bytes(strings.to_vec())))
}

fn soa(ttl: u32) -> Record {
    record("example", ttl, RData::SOA(SOA::new(name("ns.example"), name("root.example"), 1, 1, 1, 1, ttl)))
}

/// Options that a loaded machine doesn't break: silence is waited for long enough to be sure.
pub(crate) fn patient(servers: &[&Server]) -> Options {
    let servers = servers.iter().map(|server| server.address).collect();
    Options { servers, timeout: Span::seconds(10), attempts: 1, ..Options::default() }
}

/// Options for servers that keep silent.
pub(crate) fn hasty(server: &Server) -> Options {
    Options { timeout: Span::millis(100), ..patient(&[server]) }
}

/// A deadline that no test reaches unless it should.
pub(crate) fn later() -> Deadline {
    tick().deadline(Duration::from_secs(30))
}

/// Runs `body` on a shard, with a resolver set up by `options`, and passes its panic on.
pub(crate) fn on_shard<F>(options: Options, body: impl FnOnce(Dns) -> F + Send + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let services = Services::start().expect("starts");
    let dns = Dns::start(services.handle(), &options).expect("has servers");
    let board = Board::new(1);
    let seat = board.seat(ShardId(0)).expect("the first");
    let (ended, _departures) = unbounded();
    let plan = Plan {
        shard: ShardId(0),
        cpu: cores()[0],
        block: Arc::new(Block::new()),
        seat,
        pulse: ringpost_runtime::Pulse::new(ShardId(0)),
        ended,
    };
    let thread = start(plan, move |_| body(dns)).expect("starts");
    let result = thread.join();
    services.stop();
    result.expect("the body's assertions hold");
}
