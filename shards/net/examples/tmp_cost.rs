//! tmp
use rustls::client::danger::*;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::*;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::*;
use ringpost_net::{Acceptor, CertificateFiles, Connection, Table, Ticketing, TlsOptions, bind, serve};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
#[derive(Debug)]
struct Trusting;
impl ServerCertVerifier for Trusting {
    fn verify_server_cert(&self,_: &CertificateDer<'_>,_: &[CertificateDer<'_>],_: &ServerName<'_>,_: &[u8],_: UnixTime)->std::result::Result<ServerCertVerified, rustls::Error>{Ok(ServerCertVerified::assertion())}
    fn verify_tls12_signature(&self,_: &[u8],_: &CertificateDer<'_>,_: &DigitallySignedStruct)->std::result::Result<HandshakeSignatureValid, rustls::Error>{Ok(HandshakeSignatureValid::assertion())}
    fn verify_tls13_signature(&self,_: &[u8],_: &CertificateDer<'_>,_: &DigitallySignedStruct)->std::result::Result<HandshakeSignatureValid, rustls::Error>{Ok(HandshakeSignatureValid::assertion())}
    fn supported_verify_schemes(&self)->Vec<SignatureScheme>{aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()}
}
fn pin(cpu: usize) { let mut set = rustix::thread::CpuSet::new(); set.set(cpu); rustix::thread::sched_setaffinity(None, &set).unwrap(); }
fn main() {
    let dir = std::env::temp_dir().join("tmp_tls_memory");
    let (c,k) = ringpost_net::stored_or_made(&dir, "mx.example.org").ok().unwrap();
    let cc = Arc::new(ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_safe_default_protocol_versions().unwrap().dangerous().with_custom_certificate_verifier(Arc::new(Trusting)).with_no_client_auth());
    let mut hello = Vec::new();
    let mut cl = ClientConnection::new(cc.clone(), ServerName::try_from("mx.example.org").unwrap()).unwrap();
    while cl.wants_write() { cl.write_tls(&mut hello).unwrap(); }
    let options = TlsOptions { certificates: vec![CertificateFiles{cert:c,key:k,ocsp:None}], ..TlsOptions::default() };
    let acceptor = Acceptor::all(&options, &Ticketing::new().ok().unwrap(), 1).ok().unwrap().remove(0);
    let gs = [bind("127.0.0.1:0".parse().unwrap(), 1).ok().unwrap(), bind("127.0.0.1:0".parse().unwrap(), 1).ok().unwrap()];
    let addresses = [gs[0].address(), gs[1].address()];
    let bounds: Vec<_> = gs.into_iter().map(|g| g.listen_all(None).ok().unwrap().remove(0)).collect();
    let board = ringpost_control::Board::new(1);
    let seat = board.seat(ringpost_base::ShardId(0)).unwrap();
    let (ended, _) = crossbeam::channel::unbounded();
    let block = Arc::new(ringpost_metrics::Block::new());
    block.raise(ringpost_metrics::Gauge::SessionsOpen, 1);
    let plan = ringpost_runtime::Plan { shard: ringpost_base::ShardId(0), cpu: 0, block, seat, ended };
    let _thread = ringpost_runtime::start(plan, move |mut shard| async move {
        let table = Table::new();
        ringpost_runtime::spawn_vital(table.clone().keep_swept());
        for (at, bound) in bounds.into_iter().enumerate() {
            let t2 = table.clone(); let acceptor = acceptor.clone();
            let take = move |mut connection: Connection| { let acceptor = acceptor.clone(); ringpost_runtime::spawn("s", async move {
                connection.allow(std::time::Duration::from_secs(60), true);
                if at == 0 { let _ = connection.open_secure(&acceptor).await; return }
                loop { if connection.feed(true, |i| (i.len(), (!i.is_empty()).then_some(()))).await.is_err() { return }
                connection.send(&mut b"x".to_vec()).await.ok(); }
            })};
            ringpost_runtime::spawn_vital(serve(bound, t2, shard.block.clone(), take, std::future::pending::<()>()));
        }
        while !shard.seat.changed().await.phase.is_final() {}
    }).ok().unwrap();
    pin(1);
    let count: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    let done = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let d2 = done.clone();
    std::thread::spawn(move || { 
        let mut open: std::collections::VecDeque<std::net::TcpStream> = Default::default();
        let mut b = vec![0; 8192];
        loop {
            while open.len() < count { let mut s = std::net::TcpStream::connect(addresses[0]).unwrap(); s.write_all(&hello).unwrap(); open.push_back(s); }
            let mut s = open.pop_front().unwrap();
            let t = Instant::now(); let r = s.read(&mut b); if t.elapsed() > Duration::from_millis(50) || !matches!(r, Ok(1..)) { println!("slow {:?} {r:?}", t.elapsed()); } if r.unwrap_or(0) > 0 { d2.fetch_add(1, std::sync::atomic::Ordering::Relaxed); }
            socket2::SockRef::from(&s).set_linger(Some(Duration::ZERO)).unwrap();
        }
    });
    std::thread::sleep(Duration::from_secs(1));
    let mut s = std::net::TcpStream::connect(addresses[1]).unwrap(); s.set_nodelay(true).unwrap();
    let mut lat = Vec::new();
    let (t0, c0) = (Instant::now(), done.load(std::sync::atomic::Ordering::Relaxed));
    while t0.elapsed() < Duration::from_secs(4) { let a = Instant::now(); s.write_all(b"y").unwrap(); s.read_exact(&mut [0]).unwrap(); lat.push(a.elapsed()); plain {:?}", ringpost_runtime::tick().nanos()/1000, lat.last()); } std::thread::sleep(Duration::from_millis(5)); }
    let rate = (done.load(std::sync::atomic::Ordering::Relaxed)-c0) as f64 / t0.elapsed().as_secs_f64();
    lat.sort();
    println!("flood of {count}: {rate:.0} handshakes/s; plaintext p50 {:?} p99 {:?} max {:?} n {}", lat[lat.len()/2], lat[lat.len()*99/100], lat.last().unwrap(), lat.len());
    std::process::exit(0);
}
