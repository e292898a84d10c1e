//! tmp
use rustls::client::danger::*;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::*;
use rustls::{client, ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme, StreamOwned};
use std::io::{Read, Write};
use std::sync::Arc;
use ringpost_net::{Acceptor, CertificateFiles, Connection, Table, Ticketing, TlsOptions, bind, serve};
#[derive(Debug)]
struct Trusting;
impl ServerCertVerifier for Trusting {
    fn verify_server_cert(&self,_: &CertificateDer<'_>,_: &[CertificateDer<'_>],_: &ServerName<'_>,_: &[u8],_: UnixTime)->std::result::Result<ServerCertVerified, rustls::Error>{Ok(ServerCertVerified::assertion())}
    fn verify_tls12_signature(&self,_: &[u8],_: &CertificateDer<'_>,_: &DigitallySignedStruct)->std::result::Result<HandshakeSignatureValid, rustls::Error>{Ok(HandshakeSignatureValid::assertion())}
    fn verify_tls13_signature(&self,_: &[u8],_: &CertificateDer<'_>,_: &DigitallySignedStruct)->std::result::Result<HandshakeSignatureValid, rustls::Error>{Ok(HandshakeSignatureValid::assertion())}
    fn supported_verify_schemes(&self)->Vec<SignatureScheme>{aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()}
}
fn cpu() -> f64 { let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime); t.tv_sec as f64*1e6 + t.tv_nsec as f64/1e3 }
fn main() {
    let dir = std::env::temp_dir().join("tmp_tls_memory");
    let (c,k) = ringpost_net::stored_or_made(&dir, "mx.example.org").ok().unwrap();
    let chain: Vec<CertificateDer> = vec![pem::PemObject::from_pem_file(&c).unwrap()];
    let key: PrivateKeyDer = pem::PemObject::from_pem_file(&k).unwrap();
    let mut sc = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_safe_default_protocol_versions().unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
    sc.ticketer = aws_lc_rs::Ticketer::new().unwrap(); sc.send_tls13_tickets=1; sc.ignore_client_order = true;
    let sc = Arc::new(sc);
    let mut cc = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_safe_default_protocol_versions().unwrap().dangerous().with_custom_certificate_verifier(Arc::new(Trusting)).with_no_client_auth();
    cc.resumption = client::Resumption::disabled();
    let cc = Arc::new(cc);
    let n = 3000;
    let mut spent = 0.0;
    for _ in 0..n {
        let mut client = Box::new(ClientConnection::new(cc.clone(), ServerName::try_from("mx.example.org").unwrap()).unwrap());
        let a = cpu();
        let mut server = Box::new(ServerConnection::new(sc.clone()).unwrap());
        spent += cpu()-a;
        while client.wants_write() || server.wants_write() {
            let mut w = Vec::new(); while client.wants_write() { client.write_tls(&mut w).unwrap(); }
            let a = cpu();
            let mut r=&w[..]; while !r.is_empty() { server.read_tls(&mut r).unwrap(); server.process_new_packets().unwrap(); }
            let mut w = Vec::new(); while server.wants_write() { server.write_tls(&mut w).unwrap(); }
            spent += cpu()-a;
            let mut r=&w[..]; while !r.is_empty() { client.read_tls(&mut r).unwrap(); client.process_new_packets().unwrap(); }
        }
        let a = cpu(); drop(server); spent += cpu()-a;
    }
    println!("bare: {:.1} us", spent / n as f64);
    let options = TlsOptions { certificates: vec![CertificateFiles{cert:c,key:k,ocsp:None}], ..TlsOptions::default() };
    let acceptor = Acceptor::all(&options, &Ticketing::new().ok().unwrap(), 1).ok().unwrap().remove(0);
    for tls in [true, false, true, false] {
        {
        let l = std::net::TcpListener::bind("127.0.0.1:0").unwrap(); let address = l.local_addr().unwrap(); let sc = sc.clone();
        let server = std::thread::spawn(move || { 
            core_pin();
            let a = cpu();
            for _ in 0..n { let (s,_) = l.accept().unwrap(); s.set_nodelay(true).unwrap();
              if tls { let mut st = StreamOwned::new(ServerConnection::new(sc.clone()).unwrap(), s); if st.write_all(b"x").is_ok() { let _ = st.flush(); let _ = st.read(&mut [0;9]); st.conn.send_close_notify(); let _ = st.flush(); let _ = st.conn.write_tls(&mut st.sock); } }
              else { let mut s = s; let _ = s.write_all(b"x"); let _ = s.read(&mut [0;9]); } }
            println!("bare-{} per connection {:.1} us", if tls {"tls"} else {"plain"}, (cpu()-a)/n as f64);
        });
        clients(address, tls, n, &cc);
        server.join().unwrap();
        }
        let g = bind("127.0.0.1:0".parse().unwrap(), 1).ok().unwrap();
        let address = g.address();
        let bound = g.listen_all(None).ok().unwrap().remove(0);
        let board = ringpost_control::Board::new(1);
        let seat = board.seat(ringpost_base::ShardId(0)).unwrap();
        let (ended, _) = crossbeam::channel::unbounded();
        let block = Arc::new(ringpost_metrics::Block::new());
        block.raise(ringpost_metrics::Gauge::SessionsOpen, 1);
        let plan = ringpost_runtime::Plan { shard: ringpost_base::ShardId(0), cpu: 0, block, seat, ended };
        let acceptor = acceptor.clone();
        let thread = ringpost_runtime::start(plan, move |mut shard| async move {
            let table = Table::new();
            ringpost_runtime::spawn_vital(table.clone().keep_swept());
            let t2 = table.clone();
            let take = move |mut connection: Connection| { let acceptor = acceptor.clone(); ringpost_runtime::spawn("s", async move {
                connection.allow(std::time::Duration::from_secs(10), false);
                if tls { if connection.open_secure(&acceptor).await.is_err() { return } }
                if connection.send(&mut b"x".to_vec()).await.is_err() { return }
                let _ = connection.feed(true, |i| (i.len(), Some(()))).await;
                connection.close(false).await;
            })};
            let a = cpu();
            let stopped = async { while !shard.seat.changed().await.phase.is_final() {} };
            serve(bound, t2, shard.block, take, stopped).await;
            println!("{} per connection {:.1} us", if tls {"tls"} else {"plain"}, (cpu()-a)/n as f64);
        }).ok().unwrap();
        clients(address, tls, n, &cc);
        board.publish_phase(ringpost_control::Phase::Draining);
        thread.join().ok().unwrap();
    }
}

fn core_pin() { let mut set = rustix::thread::CpuSet::new(); set.set(0); rustix::thread::sched_setaffinity(None, &set).unwrap(); }
fn clients(address: std::net::SocketAddr, tls: bool, n: i32, cc: &Arc<ClientConfig>) {
        let mut clients = Vec::new();
        for t in 0..4 { let cc = cc.clone(); clients.push(std::thread::spawn(move || for _ in 0..n/4 { let _ = t;
            let s = std::net::TcpStream::connect(address).unwrap();
            s.set_nodelay(true).unwrap();
            if tls {
                let mut st = StreamOwned::new(ClientConnection::new(cc.clone(), ServerName::try_from("mx.example.org").unwrap()).unwrap(), s);
                st.read_exact(&mut [0]).unwrap(); st.write_all(b"q").unwrap(); 
                let _ = st.read(&mut [0;9]);
            } else { let mut st = s; st.read_exact(&mut [0]).unwrap(); st.write_all(b"q").unwrap(); let _ = st.read(&mut [0;9]); }
        })); }
        for c in clients { c.join().unwrap(); }
}
