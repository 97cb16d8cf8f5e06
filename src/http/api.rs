//! [`HttpApi`], which builds the router of the API.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{Json, Router, extract::Request, http::StatusCode, middleware::Next, routing::get};
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    app::AppState,
    auth::{Access, TokenStore},
    chunk_routes,
    connections::ConnectionCounts,
    databases,
    error::{ApiError, ApiResult},
    executor::Executor,
    export, groups, history, maintenance,
    metrics::Metrics,
    observe, openapi, origin, page, status, tokens, upload,
    upload_sessions::{IDLE_TIMEOUT, UploadSessions},
};
use crate::{ControlPlane, Maintainer, Result};

/// The Platform API of a fleet.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use litefleet::{ControlPlane, http::HttpApi};
///
/// let api = HttpApi::new(ControlPlane::open(dir.path())?);
/// let token_file = api.organization_token_file()?.expect("tokens are required");
/// let router: axum::Router = api.router()?;
/// # let _ = (token_file, router);
/// # Ok::<(), litefleet::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct HttpApi {
    plane: ControlPlane,
    organization: Option<String>,
    location: String,
    requires_tokens: bool,
    upload_idle_timeout: Duration,
    has_page: bool,
    executor: Arc<Executor>,
    uploads: Arc<UploadSessions>,
    connections: Arc<ConnectionCounts>,
    maintainer: Option<Arc<Maintainer>>,
}

impl HttpApi {
    /// Creates the API of `plane`, which requires tokens.
    #[must_use]
    pub fn new(plane: ControlPlane) -> Self {
        Self {
            plane,
            organization: None,
            location: "local".into(),
            requires_tokens: true,
            upload_idle_timeout: IDLE_TIMEOUT,
            has_page: false,
            executor: Arc::default(),
            uploads: Arc::default(),
            connections: Arc::default(),
            maintainer: None,
        }
    }

    /// Sets the name of the organization, and rejects requests that name another. By default any name is accepted.
    #[must_use]
    pub fn organization(self, slug: impl Into<String>) -> Self {
        Self { organization: Some(slug.into()), ..self }
    }

    /// Sets the name of the only location. The default is `local`.
    #[must_use]
    pub fn location(self, name: impl Into<String>) -> Self {
        Self { location: name.into(), ..self }
    }

    /// Disables authentication: anyone who can reach the server has full access. Requests that a browser makes for a web page of
    /// another origin are still rejected.
    #[must_use]
    pub fn without_tokens(self) -> Self {
        Self { requires_tokens: false, ..self }
    }

    /// Sets how long a chunked upload may wait for its next request before it is cancelled and its data removed. The default is
    /// five minutes.
    #[must_use]
    pub fn upload_idle_timeout(self, timeout: Duration) -> Self {
        Self { upload_idle_timeout: timeout, ..self }
    }

    /// Adds the metrics of this fleet's maintainer to `/metrics`, and stops it [with the server](Self::drain).
    #[must_use]
    pub fn with_maintainer(self, maintainer: Arc<Maintainer>) -> Self {
        Self { maintainer: Some(maintainer), ..self }
    }

    /// Adds a web page at `/` that manages groups and databases, their history, uploads and exports from a browser.
    #[must_use]
    pub fn with_page(self) -> Self {
        Self { has_page: true, ..self }
    }

    /// Returns the path of a file with a token of the organization, which only the owner of the fleet can read. The file is created
    /// if it does not exist. Returns `None` if the API requires no tokens.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](crate::ErrorKind::Io).
    pub fn organization_token_file(&self) -> Result<Option<PathBuf>> {
        self.token_file(Access::Full)
    }

    /// Returns the path of a file with a read-only token of the organization, for example for a program that reads `/metrics`. The
    /// file is created if it does not exist. Returns `None` if the API requires no tokens.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](crate::ErrorKind::Io).
    pub fn read_only_token_file(&self) -> Result<Option<PathBuf>> {
        self.token_file(Access::ReadOnly)
    }

    fn token_file(&self, access: Access) -> Result<Option<PathBuf>> {
        self.token_store()?.map(|tokens| tokens.organization_token_file(access)).transpose()
    }

    fn token_store(&self) -> Result<Option<TokenStore>> {
        self.requires_tokens.then(|| TokenStore::open(self.plane.root())).transpose()
    }

    pub(super) const fn requires_tokens(&self) -> bool {
        self.requires_tokens
    }

    pub(super) const fn connection_counts(&self) -> &Arc<ConnectionCounts> {
        &self.connections
    }

    /// Returns the router of the API, to be served or merged into that of a host program.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Io`](crate::ErrorKind::Io) if the secret that signs tokens cannot be read or created.
    pub fn router(&self) -> Result<Router> {
        let metrics = Arc::<Metrics>::default();
        let app = AppState {
            plane: self.plane.clone(),
            organization: self.organization.clone(),
            location: self.location.clone(),
            tokens: self.token_store()?.map(Arc::new),
            upload_idle_timeout: self.upload_idle_timeout,
            executor: Arc::clone(&self.executor),
            metrics: Arc::clone(&metrics),
            uploads: Arc::clone(&self.uploads),
            connections: Arc::clone(&self.connections),
            maintainer: self.maintainer.clone(),
        };
        let requires_tokens = self.requires_tokens;
        let guard = axum::middleware::from_fn(move |request: Request, next: Next| async move {
            origin::check_authority(&request)?;
            origin::check_origin(request.headers())?;
            if !requires_tokens {
                origin::check_host(request.headers())?;
                origin::check_site(&request)?;
            }
            ApiResult::Ok(next.run(request).await)
        });
        export::remove_leftovers(self.plane.root());
        let (routes, document) = routes();
        let document = Json(openapi::finish(document, requires_tokens));
        let routes = routes
            .route("/openapi.json", get(async move || document.clone()))
            .fallback(async || ApiError::not_found("no such path"))
            .method_not_allowed_fallback(async || {
                let message = "method not allowed for this path";
                ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
            });
        let observe = axum::middleware::from_fn(move |request: Request, next: Next| {
            observe::observe(Arc::clone(&metrics), request, next)
        });
        let routes = if self.has_page { routes.merge(page::routes()) } else { routes };
        Ok(routes.with_state(Arc::new(app)).layer(guard).layer(observe))
    }

    /// Cancels maintenance and verification, which can be repeated later. A host program calls this when it begins to shut down;
    /// [`Server`](super::Server) does so itself.
    pub fn drain(&self) {
        self.executor.drain();
        if let Some(maintainer) = &self.maintainer {
            maintainer.stop();
        }
    }

    /// Refuses further calls and cancels long ones, which leave nothing behind. A host program calls this before its runtime is
    /// dropped; [`Server`](super::Server) does so itself.
    pub fn stop(&self) {
        self.executor.stop();
        self.uploads.end_all();
    }
}

/// The routes, and the document that describes them.
fn routes() -> (Router<Arc<AppState>>, OpenApi) {
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
        .routes(routes!(maintenance::maintain))
        .routes(routes!(maintenance::verify))
        .routes(routes!(tokens::mint_for_database))
        .routes(routes!(tokens::rotate_database));
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
        .routes(routes!(tokens::rotate_group));
    OpenApiRouter::with_openapi(openapi::document())
        .nest("/v1/organizations/{organization}/databases", databases)
        .nest("/v1/organizations/{organization}/groups", groups)
        .routes(routes!(status::organizations))
        .routes(routes!(status::locations))
        .routes(routes!(upload::by_host))
        .routes(routes!(upload::by_path))
        .routes(routes!(status::health))
        .routes(routes!(status::ready))
        .routes(routes!(status::metrics))
        .merge(chunk_routes::routes())
        .split_for_parts()
}
