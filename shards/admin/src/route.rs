//! A route: how it is asked, who may, what goes in and out; and the handler.
//!
//! What is said here of a route is what `docs/api.md` says of it, and what is checked before its handler runs.

use crate::access::Role;
use crate::routes::Shared;
use axum::handler::Handler;
use axum::routing::{MethodRouter, delete, get, post, put};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use std::sync::Arc;

/// Makes the schema of a type.
pub(crate) type Describe = fn(&mut SchemaGenerator) -> Schema;

/// Whether a body has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    Always,
    /// An empty one says as much as `{}`.
    IfAny,
}

/// What is answered.
#[derive(Clone, Copy)]
pub(crate) enum Gives {
    /// JSON of a type.
    Json(Describe),
    /// Something else, of this media type.
    Text(&'static str),
    /// Nothing was said: a fault of ours, which a test finds.
    Unsaid,
}

/// A route.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    /// What it is for, in words.
    pub(crate) purpose: &'static str,
    /// What is done, as the audit log calls it; nothing if nothing is changed.
    pub(crate) changes: Option<&'static str>,
    /// Who may, on the socket.
    pub(crate) who: Role,
    /// Keys of the query, and what they mean.
    pub(crate) query: &'static [(&'static str, &'static str)],
    pub(crate) takes: Option<(Takes, Describe)>,
    pub(crate) gives: Gives,
    pub(crate) handler: MethodRouter<Arc<Shared>>,
}

impl Route {
    fn new(
        method: &'static str,
        path: &'static str,
        purpose: &'static str,
        handler: MethodRouter<Arc<Shared>>,
    ) -> Self {
        let (who, gives) = (Role::Reader, Gives::Unsaid);
        Self { method, path, purpose, changes: None, who, query: &[], takes: None, gives, handler }
    }

    /// One that looks.
    pub(crate) fn get<H, T>(path: &'static str, purpose: &'static str, handler: H) -> Self
    where
        H: Handler<T, Arc<Shared>>,
        T: 'static,
    {
        Self::new("GET", path, purpose, get(handler))
    }

    /// One that does something.
    pub(crate) fn post<H, T>(changes: &'static str, path: &'static str, purpose: &'static str, handler: H) -> Self
    where
        H: Handler<T, Arc<Shared>>,
        T: 'static,
    {
        Self { changes: Some(changes), who: Role::Operator, ..Self::new("POST", path, purpose, post(handler)) }
    }

    /// One that sets something.
    pub(crate) fn put<H, T>(changes: &'static str, path: &'static str, purpose: &'static str, handler: H) -> Self
    where
        H: Handler<T, Arc<Shared>>,
        T: 'static,
    {
        Self { changes: Some(changes), who: Role::Operator, ..Self::new("PUT", path, purpose, put(handler)) }
    }

    /// One that takes something away.
    pub(crate) fn delete<H, T>(changes: &'static str, path: &'static str, purpose: &'static str, handler: H) -> Self
    where
        H: Handler<T, Arc<Shared>>,
        T: 'static,
    {
        Self { changes: Some(changes), who: Role::Operator, ..Self::new("DELETE", path, purpose, delete(handler)) }
    }

    /// The same, not for readers.
    pub(crate) fn for_operators(self) -> Self {
        Self { who: Role::Operator, ..self }
    }

    /// The same with a query.
    pub(crate) fn query(self, query: &'static [(&'static str, &'static str)]) -> Self {
        Self { query, ..self }
    }

    /// The same with a body.
    pub(crate) fn takes<T: JsonSchema>(self, takes: Takes) -> Self {
        Self { takes: Some((takes, |generator| generator.subschema_for::<T>())), ..self }
    }

    /// The same with an answer in JSON.
    pub(crate) fn gives<T: JsonSchema>(self) -> Self {
        Self { gives: Gives::Json(|generator| generator.subschema_for::<T>()), ..self }
    }

    /// The same with another answer.
    pub(crate) fn text(self, media_type: &'static str) -> Self {
        Self { gives: Gives::Text(media_type), ..self }
    }
}
