//! Clients that come from addresses of a test's choice, which a trusted peer presents, and what the server tells of them.

use super::server::Server;
use super::smtp::{Client, session_id};
use serde_json::Value;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

/// The listener's setting that lets [`by_xclient`] present anybody.
pub(crate) const XCLIENT: &str = "xclient_from = [\"127.0.0.0/8\"]";

/// The listener's setting with which every connection begins as [`by_proxy`] does.
pub(crate) const PROXY: &str = "proxy_from = [\"127.0.0.0/8\"]";

/// A session, and the id that the server gave it.
pub(crate) struct Presented {
    pub(crate) client: Client,
    pub(crate) id: String,
}

/// A client at an address, as XCLIENT presents it, that has said EHLO with a name.
pub(crate) fn by_xclient(server: &Server, address: &str, helo: &str) -> Presented {
    let mut client = Client::connect(server.smtp());
    let id = session_id(&client.expect(220));
    client.say("EHLO proxy.example.net", 250);
    present(&mut client, address, helo);
    Presented { client, id }
}

/// Presents another client in the same session.
pub(crate) fn present(client: &mut Client, address: &str, helo: &str) {
    let kind = if address.contains(':') { "IPV6:" } else { "" };
    client.say(&format!("XCLIENT ADDR={kind}{address}"), 220);
    client.say(&format!("EHLO {helo}"), 250);
}

/// The same as the header of the PROXY protocol presents it.
pub(crate) fn by_proxy(listener: SocketAddr, address: IpAddr, helo: &str) -> Presented {
    let mut client = Client::connect(listener);
    let (family, here) = if address.is_ipv4() { ("TCP4", "198.51.100.25") } else { ("TCP6", "2001:db8::25") };
    client.send(format!("PROXY {family} {address} {here} 40000 25\r\n").as_bytes());
    let id = session_id(&client.expect(220));
    client.say(&format!("EHLO {helo}"), 250);
    Presented { client, id }
}

/// What `ringpost explain` tells of a session.
#[derive(Debug)]
pub(crate) struct Story(Vec<Value>);

impl Story {
    #[track_caller]
    pub(crate) fn of(server: &Server, id: &str) -> Self {
        let told = server.tell(&["explain", id, "--json"]).ok().out;
        let told: Value = serde_json::from_str(&told).expect("JSON");
        Self(told["steps"].as_array().expect("steps").clone())
    }

    /// The steps of a stage, in order.
    pub(crate) fn steps(&self, stage: &str) -> Vec<&Value> {
        self.0.iter().filter(|step| step["stage"] == stage).collect()
    }

    /// The last step of a stage.
    #[track_caller]
    pub(crate) fn last(&self, stage: &str) -> &Value {
        self.steps(stage).pop().unwrap_or_else(|| panic!("no step {stage} in {self:#?}"))
    }
}

/// The inputs of a step in one line, as `name=value`, in order.
pub(crate) fn inputs(step: &Value) -> String {
    let mut line = String::new();
    for input in step["inputs"].as_array().expect("inputs") {
        let value = input[1].as_str().map_or_else(|| input[1].to_string(), str::to_owned);
        // A String takes everything.
        let _ = write!(line, " {}={value}", input[0].as_str().expect("a name"));
    }
    line.trim_start().to_owned()
}
