//! The request for a message: its header fields, and its body in either form.

use super::body::Whole;
use super::content::{Coding, Content};
use super::signature::put_hex;
use crate::description::describe;
use crate::parcel::Parcel;
use aws_lc_rs::digest;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use hyper::http::HeaderMap;
use ringpost_base::Entropy;
use ringpost_config::WebhookFormat;

const AGENT: &str = concat!("ringpost/", env!("CARGO_PKG_VERSION"));

const ID: HeaderName = HeaderName::from_static("ringpost-id");
const ATTEMPT: HeaderName = HeaderName::from_static("ringpost-attempt");
const HOST: HeaderName = HeaderName::from_static("ringpost-host");
const TIMESTAMP: HeaderName = HeaderName::from_static("ringpost-timestamp");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Bytes of the digest of an idempotency key: enough that no two are equal by chance.
const KEY_BYTES: usize = 8;

/// The header fields that every request to a target has.
///
/// # Errors
/// With the name of a field of the config that can't be one.
pub(super) fn standing_headers(host: &str, more: &[(String, String)]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.insert(HOST, HeaderValue::try_from(host).map_err(|_| HOST.to_string())?);
    for (name, value) in more {
        let field = HeaderName::try_from(name).map_err(|_| name.clone())?;
        let mut value = HeaderValue::try_from(value).map_err(|_| name.clone())?;
        // It may be a secret.
        value.set_sensitive(true);
        headers.insert(field, value);
    }
    Ok(headers)
}

/// Adds what belongs to one request: `at` is when it is made, in seconds of the Unix epoch.
pub(super) fn add_headers(headers: &mut HeaderMap, target: &str, parcel: &Parcel, at: u64) {
    let fields = [
        (ID, parcel.id.to_string()),
        (ATTEMPT, parcel.number.to_string()),
        (TIMESTAMP, at.to_string()),
        (IDEMPOTENCY_KEY, idempotency_key(target, parcel)),
    ];
    for (name, value) in fields {
        // Digits and letters always make a value.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    if let Some(Ok(context)) = parcel.context.as_deref().map(HeaderValue::from_str) {
        headers.insert(TRACEPARENT, context);
    }
}

/// The same for each attempt to bring the same message to the same recipients by the same target; another where the recipients
/// are others, since an earlier request has served the rest.
fn idempotency_key(target: &str, parcel: &Parcel) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(target.as_bytes());
    for recipient in parcel.recipients.iter().filter_map(|number| parcel.envelope.recipients.get(*number as usize)) {
        // No address has a line end in it.
        context.update(b"\n");
        context.update(recipient.address.as_bytes());
    }
    let mut key = format!("{}-", parcel.id);
    put_hex(&context.finish().as_ref()[..KEY_BYTES], &mut key);
    key
}

/// The body, with the header field that says what it is.
pub(super) fn body(headers: &mut HeaderMap, format: WebhookFormat, parcel: &Parcel, entropy: Entropy) -> Whole {
    let content = Content::from(&parcel.content);
    // Strings and numbers always make JSON.
    let envelope = serde_json::to_vec(&describe(parcel)).unwrap_or_default();
    match format {
        WebhookFormat::Json => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            json(envelope, content)
        }
        WebhookFormat::Multipart => {
            let mut boundary = "ringpost-".to_owned();
            put_hex(&entropy.0, &mut boundary);
            if let Ok(value) = HeaderValue::try_from(format!("multipart/form-data; boundary={boundary}")) {
                headers.insert(CONTENT_TYPE, value);
            }
            multipart(&boundary, &parcel.id.to_string(), &envelope, content)
        }
    }
}

/// The envelope, in which the message is one more field.
fn json(mut envelope: Vec<u8>, content: Content) -> Whole {
    // The brace at its end comes behind the message.
    envelope.pop();
    envelope.extend_from_slice(b",\"message\":\"");
    Whole { before: envelope.into(), content, coding: Coding::Base64, behind: "\"}".into() }
}

/// A form with two fields (RFC 7578 section 4). Nobody who writes a message can know the boundary, so none has it in it. The
/// message has a file name because many servers keep what has none in memory.
fn multipart(boundary: &str, id: &str, envelope: &[u8], content: Content) -> Whole {
    let part = |name: &str, kind: &str| {
        format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\nContent-Type: {kind}\r\n\r\n")
    };
    let mut before = part("envelope", "application/json").into_bytes();
    before.extend_from_slice(envelope);
    before.extend_from_slice(b"\r\n");
    before.extend_from_slice(part(&format!("message\"; filename=\"{id}.eml"), "message/rfc822").as_bytes());
    let behind = format!("\r\n--{boundary}--\r\n").into();
    Whole { before: before.into(), content, coding: Coding::Plain, behind }
}
