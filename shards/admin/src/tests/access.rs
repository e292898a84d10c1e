//! Who may do what over the socket, as far as one user can find that out: the test is the server's own user, and may
//! everything. Foreign users are the integration tests' business.

use super::socket::{ask, folder, only};
use super::{Fake, Server, sources};
use crate::access::{Peer, Role};
use crate::audit::Audit;
use crate::orders::permit;
use crate::route::Route;
use crate::routes::{Shared, acting};
use crate::{Access, Options, Principal};
use axum::Router;
use axum::body::Body;
use axum::extract::Extension;
use axum::http::{Request, StatusCode};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

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
    let path = route.path.replace("{network}", "192.0.2.9").replace("{id}", "01JD4VXK2Q000000020000000B");
    let peer = Peer { uid: 4711, gid: 4711, pid: None, role };
    let method = route.method;
    let route = permit(shared, route);
    let app = Router::new().route(route.path, route.handler).with_state(Arc::clone(shared)).layer(Extension(peer));
    let request = Request::builder().method(method).uri(path).body(Body::empty()).expect("a request");
    TowerToHyperService::new(app).call(request).await.expect("an answer").status()
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
