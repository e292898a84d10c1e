//! Temporary.
#[path = "dns/support.rs"]
#[allow(dead_code, reason = "temporary")]
mod support;
use ringpost_dns::*;
use support::*;
#[test]
fn probe() {
    for deads in [1, 2] { for lives in [1, 2] { for positive in [false, true] {
        let servers: Vec<_> = (0..lives).map(|_| Server::start()).collect();
        if positive { for s in &servers { for n in 0..200 { s.address_of(&format!("n{n}.example"), [192,0,2,1]); } } }
        let dead: Vec<_> = (0..deads).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let mut options = patient(&servers.iter().collect::<Vec<_>>());
        options.timeout = ringpost_base::Span::millis(200); options.attempts = 2;
        for d in &dead { options.servers.insert(0, d.local_addr().unwrap()); }
        on_shard(options, async move |dns: Dns| {
            let r = dns.resolver();
            let (mut slow, mut failed) = (0, 0);
            for n in 0..100 {
                let t = ringpost_runtime::tick();
                let out = r.ipv4(&format!("n{n}.example"), later()).await;
                if ringpost_runtime::tick().since(t).as_millis() > 100 { slow += 1 }
                if !matches!(out, Ok(_) | Err(Failure::NoSuchName)) { failed += 1 }
            }
            println!("dead={deads} live={lives} positive={positive} slow={slow} failed={failed} of 100");
            drop(dead);
        });
    }}}
}
