//! Who may do what over the socket, as far as one user can find that out: the test is the server's own user, and may
//! everything. Foreign users are the integration tests' business.

use super::socket::{ask, folder, only};
use super::{Fake, Server, sources};
use crate::access::{Peer, Role};
use crate::api::AuditEntry;
use crate::audit::Audit;
use crate::orders::{UNDER_WAY_MAX, permit};
use crate::route::Route;
use crate::routes::{Shared, acting};
use crate::{Access, Options, Principal};
use axum::Router;
use axum::body::Body;
use axum::extract::Extension;
use axum::http::{Request, StatusCode};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A ban that the fake takes its time for.
const SLOW_BAN: &str = r#"{"network":"10.0.2.0/24"}"#;

#[test]
fn the_socket_is_open_to_all_only_where_credentials_decide() {
    let everybody = vec![Principal::User(4711)];
    for (access, mode) in [
        (Access::default(), 0o600),
        (Access { operators: everybody.clone(), readers: Vec::new() }, 0o666),
        (Access { operators: Vec::new(), readers: everybody }, 0o666),
    ] {
        let (_folder, path) = folder();
        let server = Server::start_at(Options { access, ..only(&path) }, 1, &[]);
        assert_eq!(fs::symlink_metadata(&path).expect("is there").permissions().mode() & 0o777, mode);
        assert_eq!(ask(&path, "GET", "/api/v1/status", "").status, 200);
        server.stop();
    }
}

/// What somebody with a role is answered who asks for a route without a body.
async fn answered(shared: &Arc<Shared>, route: Route, role: Role) -> StatusCode {
    answered_to(shared, route, role, "", "").await
}

/// The same with a query and a body.
async fn answered_to(shared: &Arc<Shared>, route: Route, role: Role, query: &str, body: &str) -> StatusCode {
    let path = route.path.replace("{network}", "192.0.2.9").replace("{id}", "01JD4VXK2Q000000020000000A");
    let peer = Peer { uid: 4711, gid: 4711, pid: None, role, is_own: false };
    let method = route.method;
    let route = permit(shared, route);
    let app = Router::new().route(route.path, route.handler).with_state(Arc::clone(shared)).layer(Extension(peer));
    let request = Request::builder().method(method).uri(path + query).body(Body::from(body.to_owned()));
    TowerToHyperService::new(app).call(request.expect("a request")).await.expect("an answer").status()
}

fn route(method: &str, path: &str) -> Route {
    acting().into_iter().find(|route| (route.method, route.path) == (method, path)).expect("there is one")
}

/// Has something asked of a server that keeps an audit log; the entries that this leaves.
fn noted(ask: impl AsyncFnOnce(&Arc<Shared>)) -> Vec<AuditEntry> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (folder, _) = folder();
    let path = folder.path().join("audit.log");
    let audit = Audit::start(path.clone()).expect("a file");
    let shared = Arc::new(Shared::new(sources(1, &[], Arc::<Fake>::default()), audit.clone()));
    runtime.block_on(ask(&shared));
    audit.finish();
    let text = fs::read_to_string(path).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("an entry")).collect()
}

/// A program runs with the rights of the server: an operator may have what is installed started, and nothing else.
#[test]
fn an_operator_has_no_program_of_its_own_run() {
    let entries = noted(async |shared| {
        for (body, status) in [(r#"{"binary":"/tmp/mine"}"#, StatusCode::FORBIDDEN), ("", StatusCode::OK)] {
            let upgrade = route("POST", "/api/v1/upgrade");
            assert_eq!(answered_to(shared, upgrade, Role::Operator, "", body).await, status, "{body}");
        }
    });
    let outcomes: Vec<&str> = entries.iter().map(|entry| entry.outcome.as_str()).collect();
    assert!(outcomes[0].contains("root and the server's own user") && outcomes[1..] == ["done"], "{outcomes:?}");
}

#[test]
fn header_sections_are_handed_out_as_messages_are() {
    let entries = noted(async |shared| {
        for (role, query, status) in [
            (Role::Reader, "", StatusCode::OK),
            (Role::Reader, "?headers=false", StatusCode::OK),
            (Role::Reader, "?headers=true", StatusCode::FORBIDDEN),
            (Role::Operator, "?headers=true", StatusCode::OK),
        ] {
            let message = route("GET", "/api/v1/queue/messages/{id}");
            assert_eq!(answered_to(shared, message, role, query, "").await, status, "{role:?} {query}");
        }
    });
    let [entry] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((entry.what.as_str(), &entry.after), ("read message", &json!({ "bytes": 12, "of": "headers" })));
}

/// Each refusal would be an entry, and the file is put aside at 16 MiB: what others did would be gone soon.
#[test]
fn a_reader_does_not_flood_the_audit_log() {
    const COUNT: usize = 2_000;
    let begun = Instant::now();
    let entries = noted(async |shared| {
        for _ in 0..COUNT {
            let status = answered(shared, route("POST", "/api/v1/drain"), Role::Reader).await;
            assert_eq!(status, StatusCode::FORBIDDEN);
        }
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        shared.observe();
    });
    assert!(entries.len() as u64 <= begun.elapsed().as_secs() + 2, "{}", entries.len());
    assert!(entries[0].outcome.contains("a reader may not POST /api/v1/drain"), "{}", entries[0].outcome);
    let last = entries.last().expect("entries");
    assert!(last.what == "requests" && last.subject.ends_with(" requests"), "{last:?}");
    assert_eq!(last.who.uid, Some(4711));
}

/// What readers look up takes no place of operators, whether these look or change something.
#[test]
fn readers_keep_no_operator_out() {
    noted(async |shared| {
        let slow = || async { answered_to(shared, route("POST", "/api/v1/bans"), Role::Operator, "", SLOW_BAN).await };
        let mut orders: Vec<_> = (0..UNDER_WAY_MAX).map(|_| Box::pin(slow())).collect();
        for order in &mut orders {
            assert!(tokio::time::timeout(Duration::from_millis(1), order).await.is_err(), "it is slow");
        }
        let next = slow().await;
        assert_eq!(next, StatusCode::SERVICE_UNAVAILABLE, "there are as many as there may be");
        for role in [Role::Reader, Role::Operator] {
            assert_eq!(answered(shared, route("GET", "/api/v1/bans"), role).await, StatusCode::OK, "{role:?}");
        }
    });
}

#[test]
fn a_reader_gets_to_no_handler_that_is_for_operators() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let shared = Arc::new(Shared::new(sources(1, &[], Arc::<Fake>::default()), Audit::off()));
    let mut kept_out = Vec::new();
    for route in acting() {
        let (name, who) = (format!("{} {}", route.method, route.path), route.who);
        let status = runtime.block_on(answered(&shared, route, Role::Reader));
        assert_eq!(status == StatusCode::FORBIDDEN, who == Role::Operator, "{name}: {status}");
        kept_out.extend((who == Role::Operator).then_some(name));
    }
    for name in ["GET /debug/profile", "GET /api/v1/queue/messages/{id}/message", "POST /api/v1/upgrade"] {
        assert!(kept_out.iter().any(|other| other == name), "{name}");
    }
    for route in acting() {
        let name = format!("{} {}", route.method, route.path);
        let status = runtime.block_on(answered(&shared, route, Role::Operator));
        assert_ne!(status, StatusCode::FORBIDDEN, "{name}");
    }
}
