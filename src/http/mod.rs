//! Turso's Platform API over HTTP, as a router to mount in a host program.
//!
//! Bodies and errors are those of the Create Database page and its neighbours: real clients of that API work unchanged. One
//! fleet is one organization, which clients may call what they like unless [`HttpApi::organization`] names it.
//!
//! Every failure is a JSON object with a sentence, `error`, and a `code` (an [`ErrorKind`](crate::ErrorKind)'s name, mostly).
//!
//! | method and path | what |
//! |---|---|
//! | `GET` `POST` `/v1/organizations/{org}/databases` | list, create |
//! | `GET` `DELETE` `…/databases/{name}` | show, destroy |
//! | `GET` `PATCH` `…/databases/{name}/configuration` | limits, blocks, protection, history window |
//! | `GET` `…/databases/{name}/usage`, `…/instances`, `…/instances/{instance}` | bytes on the disk (rows are not counted: 0); the one instance |
//! | `GET` `…/databases/{name}/points?from=&to=&limit=` | the instants that it can be restored to; under a limit the latest, and `pagination.next` is the `to` of those before |
//! | `GET` `…/databases/{name}/export?timestamp=&decrypt=&page_format=` | its SQLite file, as it is or was; the key of an encrypted one goes in the header `x-turso-encryption-key` |
//! | `POST` `…/databases/{name}/restore` | `{"timestamp": …}` restores it in place, and says what undoes that |
//! | `POST` `…/databases/{name}/maintain` | makes the snapshots that are due, removes what no window needs, compresses old logs |
//! | `POST` `…/databases/{name}/verify` | checks it and its history; `{"remote_encryption": …}` checks the tag of every page too. Findings name files relative to the database |
//! | `POST` `…/databases/{name}/update`, `…/wakeup` | nothing: the engine is the one that is linked, and no database sleeps |
//! | `GET` `…/databases/{name}/stats` | no queries: nobody counts them |
//! | `POST` `…/databases/{name}/auth/tokens`, `…/auth/rotate` | mint a token, revoke all |
//! | `GET` `POST` `/v1/organizations/{org}/groups`, `GET` `DELETE` `…/groups/{name}` | list, create, show, destroy |
//! | `GET` `PATCH` `…/groups/{name}/configuration` | protection, history window |
//! | `POST` `…/groups/{name}/rename` | `{"name": …}` renames it; its databases, their host names and all tokens stay |
//! | `POST` `…/groups/{name}/unarchive`, `…/update` | nothing, as for a database |
//! | `POST` `…/groups/{name}/auth/tokens`, `…/auth/rotate` | as for a database |
//! | `POST` `DELETE` `…/groups/{name}/locations/{location}` | there is one location, and no other can be added |
//! | `GET` `…/groups/{name}/locations/{location}/wait` | answers at once: the group is there |
//! | `GET` `/v1/organizations`, `/v1/locations` | the one of each |
//! | `POST` `/v1/upload`, on the host name of a draft | its SQLite file; also at `/databases/{name}/v1/upload` |
//! | `PUT` `/v2/upload/start`, `…/{upload_id}/chunk/{number}`, `…/{upload_id}/finalize` | the same in chunks, each of which may be sent again; also at `/databases/{name}/v2/upload/…` |
//! | `GET` `/openapi.json` | the `OpenAPI` document of all this; needs no token |
//! | `GET` `/health`, `/ready` | whether the server runs, and whether it can do something; they need no token |
//! | `GET` `/` | a page for a person, [if it is served](HttpApi::with_page); needs no token itself |
//! | `GET` `/metrics` | figures for Prometheus; a token that is read-only will do |
//!
//! Every answer has an id in `x-request-id`, that of the request if it brought one. Requests are told to `tracing` as spans
//! with that id, method and path; headers, parameters and bodies are not.

/// The version of axum whose types appear in the signatures of this module.
pub use axum;

mod about;
mod access;
mod body;
mod chunked;
mod chunks;
mod connections;
mod databases;
mod dir;
mod expiration;
mod export;
mod fleet;
mod groups;
mod history;
mod limits;
mod metrics;
mod observe;
mod openapi;
mod pace;
mod page;
mod refusal;
mod reports;
mod request;
mod schema;
mod serve;
mod sessions;
mod stream;
mod tls;
mod tokens;
mod upkeep;
mod upload;
mod work;

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{Json, Router, extract::Request, http::StatusCode, middleware::Next, routing::get};
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use access::{Access, Caller, Tokens};
use connections::Counts;
pub use limits::ConnectionLimits;
use metrics::Metrics;
use refusal::{Answer, Refusal};
use request::Bearer;
pub use serve::{Server, check_reach};
use sessions::{PATIENCE, Sessions};
pub use tls::Certificate;
use work::{Going, Load, Work};

use crate::{ControlPlane, Maintainer, Result};

/// The Platform API of a fleet.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use litefleet::{ControlPlane, http::HttpApi};
///
/// let api = HttpApi::new(ControlPlane::open(dir.path())?);
/// let token_file = api.organization_token_file()?.expect("tokens are asked for");
/// let router: axum::Router = api.router()?;
/// # let _ = (token_file, router);
/// # Ok::<(), litefleet::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct HttpApi {
    plane: ControlPlane,
    organization: Option<String>,
    location: String,
    asks_for_tokens: bool,
    patience: Duration,
    has_page: bool,
    work: Arc<Work>,
    sessions: Arc<Sessions>,
    connections: Arc<Counts>,
    maintainer: Option<Arc<Maintainer>>,
}

impl HttpApi {
    /// That of `plane`, which asks for tokens.
    #[must_use]
    pub fn new(plane: ControlPlane) -> Self {
        Self {
            organization: None,
            location: "local".into(),
            asks_for_tokens: true,
            patience: PATIENCE,
            has_page: false,
            work: Arc::default(),
            plane,
            sessions: Arc::default(),
            connections: Arc::default(),
            maintainer: None,
        }
    }

    /// The name of the organization. Other names are refused then; without it any name will do.
    #[must_use]
    pub fn organization(self, slug: impl Into<String>) -> Self {
        Self { organization: Some(slug.into()), ..self }
    }

    /// The name of the one location, where all groups are. It is `local` unless set.
    #[must_use]
    pub fn location(self, name: impl Into<String>) -> Self {
        Self { location: name.into(), ..self }
    }

    /// Asks for no tokens: whoever can reach the server may do everything. Requests that a web page of another origin made
    /// a browser send are refused all the same.
    #[must_use]
    pub fn without_tokens(self) -> Self {
        Self { asks_for_tokens: false, ..self }
    }

    /// How long an upload in chunks may wait for its next request before it is ended and what it sent is removed. It is five
    /// minutes unless set.
    #[must_use]
    pub fn upload_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Shows the figures of a maintainer of this fleet at `/metrics`, and stops it [when the server stops](Self::drain).
    #[must_use]
    pub fn maintained_by(self, maintainer: Arc<Maintainer>) -> Self {
        Self { maintainer: Some(maintainer), ..self }
    }

    /// Serves a page for a person too, at `/`, with which a browser becomes a client of the API: groups, databases, their
    /// history, uploads and exports.
    #[must_use]
    pub fn with_page(self) -> Self {
        Self { has_page: true, ..self }
    }

    /// The file with a token of the organization, which only its owner can read, in the fleet's directory. It is made if it
    /// is not there; nothing where no tokens are asked for.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](crate::ErrorKind::Io).
    pub fn organization_token_file(&self) -> Result<Option<PathBuf>> {
        self.token_file(Access::Full)
    }

    /// The same with a token that is good for looking only, as for a program that reads the figures at `/metrics`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](crate::ErrorKind::Io).
    pub fn read_only_token_file(&self) -> Result<Option<PathBuf>> {
        self.token_file(Access::ReadOnly)
    }

    fn token_file(&self, access: Access) -> Result<Option<PathBuf>> {
        let tokens = self.asks_for_tokens.then(|| Tokens::open(self.plane.root())).transpose()?;
        tokens.map(|tokens| tokens.organization_token_file(access)).transpose()
    }

    /// The routes, to be served or to be merged into those of a host program.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if the fleet's secret, which signs tokens, cannot be read or made.
    pub fn router(&self) -> Result<Router> {
        let metrics = Arc::<Metrics>::default();
        let shared = Shared {
            plane: self.plane.clone(),
            organization: self.organization.clone(),
            location: self.location.clone(),
            tokens: self.asks_for_tokens.then(|| Tokens::open(self.plane.root())).transpose()?.map(Arc::new),
            patience: self.patience,
            work: Arc::clone(&self.work),
            metrics: Arc::clone(&metrics),
            sessions: Arc::clone(&self.sessions),
            connections: Arc::clone(&self.connections),
            maintainer: self.maintainer.clone(),
        };
        let asks_for_tokens = self.asks_for_tokens;
        let guard = axum::middleware::from_fn(move |request: Request, next: Next| async move {
            request::check_authority(&request)?;
            request::check_origin(request.headers())?;
            if !asks_for_tokens {
                request::check_host(request.headers())?;
                request::check_site(&request)?;
            }
            Answer::Ok(next.run(request).await)
        });
        export::sweep(self.plane.root());
        let (routes, document) = routes();
        let document = Json(openapi::finish(document, asks_for_tokens));
        let routes = routes
            .route("/openapi.json", get(async move || document.clone()))
            .fallback(async || {
                Refusal::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")
            })
            .method_not_allowed_fallback(async || {
                let message = "this path does not take that method";
                Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
            });
        let observe = axum::middleware::from_fn(move |request: Request, next: Next| {
            observe::observe(Arc::clone(&metrics), request, next)
        });
        let routes = if self.has_page { routes.merge(page::routes()) } else { routes };
        Ok(routes.with_state(Arc::new(shared)).layer(guard).layer(observe))
    }

    /// Makes maintenance and verifications stop, which may be asked for again: they are not worth to wait for. A host program
    /// calls it when it begins to stop; [`Server`] does so itself.
    pub fn drain(&self) {
        self.work.drain();
        if let Some(maintainer) = &self.maintainer {
            maintainer.stop();
        }
    }

    /// Refuses new calls, and makes long ones stop: they leave nothing behind. A host program calls it before its runtime
    /// goes; [`Server`] does so itself.
    pub fn stop(&self) {
        self.work.stop();
        self.sessions.end_all();
    }
}

/// What every handler needs.
#[derive(Debug)]
struct Shared {
    plane: ControlPlane,
    organization: Option<String>,
    location: String,
    tokens: Option<Arc<Tokens>>,
    patience: Duration,
    work: Arc<Work>,
    metrics: Arc<Metrics>,
    sessions: Arc<Sessions>,
    connections: Arc<Counts>,
    maintainer: Option<Arc<Maintainer>>,
}

/// The state of the router.
type State = axum::extract::State<Arc<Shared>>;

impl Shared {
    /// Runs a call for whoever the bearer is.
    async fn run<T: Send + 'static>(
        &self,
        load: Load,
        bearer: Bearer,
        call: impl FnOnce(&ControlPlane, &Caller, &Going) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let (plane, tokens) = (self.plane.clone(), self.tokens.clone());
        let check = move || match (tokens, bearer.0) {
            (Some(tokens), Some(claims)) => tokens.caller(claims),
            _ => Ok(Caller::anyone()),
        };
        self.work.run(load, move |going| call(&plane, &check()?, &going)).await
    }

    /// Runs a call that only a token of the organization allows.
    async fn manage<T: Send + 'static>(
        &self,
        load: Load,
        bearer: Bearer,
        organization: &str,
        access: Access,
        call: impl FnOnce(&ControlPlane, &Going) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        self.check_organization(organization)?;
        self.run(load, bearer, move |plane, caller, going| {
            caller.may(access)?;
            call(plane, going)
        })
        .await
    }

    /// The same for a call that reads or writes the catalog, and is answered with JSON.
    async fn quick<T: Send + 'static>(
        &self,
        bearer: Bearer,
        organization: &str,
        access: Access,
        call: impl FnOnce(&ControlPlane) -> Answer<T> + Send + 'static,
    ) -> Answer<Json<T>> {
        self.manage(Load::Quick, bearer, organization, access, |plane, _| call(plane)).await.map(Json)
    }

    fn check_organization(&self, slug: &str) -> Answer<()> {
        match &self.organization {
            Some(known) if known != slug => {
                Err(Refusal::forbidden("you are not a member of this organization"))
            }
            _ => Ok(()),
        }
    }

    fn tokens(&self) -> Answer<&Arc<Tokens>> {
        self.tokens.as_ref().ok_or_else(|| {
            Refusal::new(
                StatusCode::CONFLICT,
                "unsupported",
                "this server asks for no tokens, and makes none",
            )
        })
    }
}

/// The routes, and the document that describes them.
fn routes() -> (Router<Arc<Shared>>, OpenApi) {
    let databases = OpenApiRouter::new()
        .routes(routes!(databases::list, databases::create))
        .routes(routes!(databases::show, databases::destroy))
        .routes(routes!(databases::configuration, databases::configure))
        .routes(routes!(databases::usage))
        .routes(routes!(databases::instances))
        .routes(routes!(databases::instance))
        .routes(routes!(databases::update))
        .routes(routes!(databases::wake_up))
        .routes(routes!(databases::stats))
        .routes(routes!(history::points))
        .routes(routes!(history::restore))
        .routes(routes!(export::export))
        .routes(routes!(upkeep::maintain))
        .routes(routes!(upkeep::verify))
        .routes(routes!(tokens::mint_for_database))
        .routes(routes!(tokens::rotate_of_database));
    let groups = OpenApiRouter::new()
        .routes(routes!(groups::list, groups::create))
        .routes(routes!(groups::show, groups::destroy))
        .routes(routes!(groups::configuration, groups::configure))
        .routes(routes!(groups::add_location, groups::remove_location))
        .routes(routes!(groups::wait_for_location))
        .routes(routes!(groups::rename))
        .routes(routes!(groups::unarchive))
        .routes(routes!(groups::update))
        .routes(routes!(tokens::mint_for_group))
        .routes(routes!(tokens::rotate_of_group));
    OpenApiRouter::with_openapi(openapi::document())
        .nest("/v1/organizations/{organization}/databases", databases)
        .nest("/v1/organizations/{organization}/groups", groups)
        .routes(routes!(about::organizations))
        .routes(routes!(about::locations))
        .routes(routes!(upload::by_host))
        .routes(routes!(upload::by_path))
        .routes(routes!(about::health))
        .routes(routes!(about::ready))
        .routes(routes!(about::metrics))
        .merge(chunks::routes())
        .split_for_parts()
}
