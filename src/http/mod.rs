//! Turso's Platform API over HTTP, as a router that a host program mounts, and as a [`Server`].
//!
//! Requests and responses follow the Create Database page and its neighbors, and clients of that API work unchanged. One fleet
//! is one organization. Clients may give it any name unless [`HttpApi::organization`] sets one.
//!
//! Every error response is a JSON object with a message, `error`, and a `code`, which usually names an
//! [`ErrorKind`](crate::ErrorKind).
//!
//! | method and path | effect |
//! |---|---|
//! | `GET` `POST` `/v1/organizations/{org}/databases` | list, create |
//! | `GET` `DELETE` `…/databases/{name}` | show, destroy |
//! | `GET` `PATCH` `…/databases/{name}/configuration` | limits, blocks, protection, history window |
//! | `GET` `…/databases/{name}/usage`, `…/instances`, `…/instances/{instance}` | size in bytes (rows are not counted: 0); the only instance |
//! | `GET` `…/databases/{name}/points?from=&to=&limit=` | recovery points; with a limit the latest ones, and `pagination.next` is the `to` of the next page |
//! | `GET` `…/databases/{name}/export?timestamp=&decrypt=&page_format=` | the SQLite file, current or as of an instant; the header `x-turso-encryption-key` has the key of an encrypted database |
//! | `POST` `…/databases/{name}/restore` | restores in place to `{"timestamp": …}`, and returns the instant that undoes it |
//! | `POST` `…/databases/{name}/maintain` | takes due snapshots, prunes and compresses the history |
//! | `POST` `…/databases/{name}/verify` | checks the database and its history; with `{"remote_encryption": …}` the tag of every page too. Findings name files relative to the database |
//! | `POST` `…/databases/{name}/update`, `…/wakeup` | no effect: the engine is linked, and databases do not sleep |
//! | `GET` `…/databases/{name}/stats` | no queries: they are not counted |
//! | `POST` `…/databases/{name}/auth/tokens`, `…/auth/rotate` | mint a token, revoke all |
//! | `GET` `POST` `/v1/organizations/{org}/groups`, `GET` `DELETE` `…/groups/{name}` | list, create, show, destroy |
//! | `GET` `PATCH` `…/groups/{name}/configuration` | protection, history window |
//! | `POST` `…/groups/{name}/rename` | renames the group to `{"name": …}`; its databases, their host names and all tokens are unchanged |
//! | `POST` `…/groups/{name}/unarchive`, `…/update` | no effect |
//! | `POST` `…/groups/{name}/auth/tokens`, `…/auth/rotate` | mint a token, revoke all |
//! | `POST` `DELETE` `…/groups/{name}/locations/{location}` | there is one location; others cannot be added |
//! | `GET` `…/groups/{name}/locations/{location}/wait` | returns at once |
//! | `GET` `/v1/organizations`, `/v1/locations` | the only organization, the only location |
//! | `POST` `/v1/upload`, on the host name of a draft | uploads its SQLite file; also at `/databases/{name}/v1/upload` |
//! | `PUT` `/v2/upload/start`, `…/{upload_id}/chunk/{number}`, `…/{upload_id}/finalize` | uploads it in chunks that can be retried; also at `/databases/{name}/v2/upload/…` |
//! | `GET` `/openapi.json` | the `OpenAPI` document; needs no token |
//! | `GET` `/health`, `/ready` | whether the server runs, and whether it can handle requests; need no token |
//! | `GET` `/` | a web page, [if enabled](HttpApi::with_page); needs no token itself |
//! | `GET` `/metrics` | metrics for Prometheus; a read-only token suffices |
//!
//! The body of an upload's response is empty, or `{"unchecked": […]}` if the integrity check could not cover every part of the
//! file.
//!
//! Every response has an id in `x-request-id`, which is that of the request if it has one. A `tracing` span with this id, the
//! method and the path surrounds each request. Headers, parameters and bodies are not recorded.

mod api;
mod app;
mod auth;
mod body;
mod body_reader;
mod chunk_routes;
mod chunked_upload;
mod connections;
mod databases;
mod error;
mod executor;
mod expiration;
mod export;
mod fleet_metrics;
mod groups;
mod history;
mod history_body;
mod limits;
mod maintenance;
mod metrics;
mod observe;
mod openapi;
mod origin;
mod page;
mod part_reader;
mod private_dir;
mod request;
mod schema;
mod server;
mod status;
mod stream;
mod tls;
mod tokens;
mod upload;
mod upload_sessions;

pub use api::HttpApi;
/// The version of axum whose types appear in the signatures of this module.
pub use axum;
pub use limits::ConnectionLimits;
pub use server::{Server, check_loopback};
pub use tls::Certificate;
