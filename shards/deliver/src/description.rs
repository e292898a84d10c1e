//! A message's envelope as JSON, for programs that get it beside the message.

use crate::parcel::Parcel;
use ringpost_message::Envelope;
use serde_json::{Map, Value, json};

/// The version of the form: fields are added within it, and none is renamed, retyped or taken away.
const VERSION: u32 = 1;

/// The envelope of a parcel, with those of its recipients that this delivery is for.
///
/// ```json
/// {"version": 1, "id": "...", "attempt": 1, "arrived": "2026-11-20T13:00:00Z", "from": "a@b.example",
///  "recipients": [{"address": "c@d.example", "original": "rfc822;e@d.example"}], "session": "...",
///  "client": "192.0.2.1", "helo": "...", "size": 1234, "smtputf8": false, "eight_bit": false, "binary": false,
///  "require_tls": false, "ret": "full", "envid": "..."}
/// ```
pub(crate) fn describe(parcel: &Parcel) -> Map<String, Value> {
    let envelope: &Envelope = &parcel.envelope;
    let recipients: Vec<Value> = parcel
        .recipients
        .iter()
        .filter_map(|number| envelope.recipients.get(*number as usize))
        .map(|recipient| json!({ "address": recipient.address, "original": recipient.original }))
        .collect();
    let ret = envelope.ret.map(|ret| match ret {
        ringpost_message::Ret::Full => "full",
        ringpost_message::Ret::Headers => "headers",
    });
    let value = json!({
        "version": VERSION,
        "id": parcel.id.to_string(),
        "attempt": parcel.number,
        "arrived": arrived(envelope),
        "from": envelope.from,
        "recipients": recipients,
        "session": envelope.session,
        "client": envelope.client,
        "helo": envelope.helo,
        "size": size(parcel),
        "smtputf8": envelope.utf8,
        "eight_bit": envelope.eight_bit,
        "binary": envelope.binary,
        "require_tls": envelope.require_tls,
        "ret": ret,
        "envid": envelope.envid,
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn size(parcel: &Parcel) -> u64 {
    match &parcel.content {
        ringpost_store::LoadedContent::Memory(bytes) => bytes.len() as u64,
        ringpost_store::LoadedContent::File(_, file) => file.len,
    }
}

/// In UTC (RFC 3339 section 5.6).
fn arrived(envelope: &Envelope) -> String {
    let micros = i64::try_from(envelope.arrived.unix_micros()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::MAX).to_string()
}
