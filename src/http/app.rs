//! The state that every handler shares, and calls of the control plane on its behalf.

use std::{sync::Arc, time::Duration};

use super::{
    auth::{Access, Caller, TokenStore},
    body::Claims,
    connections::ConnectionCounts,
    error::{ApiError, ApiResult},
    executor::{CallClass, Cancellation, Executor},
    metrics::Metrics,
    upload_sessions::UploadSessions,
};
use crate::{ControlPlane, Database, ErrorKind, Maintainer};

#[derive(Debug)]
pub(super) struct AppState {
    pub(super) plane: ControlPlane,
    pub(super) organization: Option<String>,
    pub(super) location: String,
    pub(super) tokens: Option<Arc<TokenStore>>,
    pub(super) upload_idle_timeout: Duration,
    pub(super) executor: Arc<Executor>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) uploads: Arc<UploadSessions>,
    pub(super) connections: Arc<ConnectionCounts>,
    pub(super) maintainer: Option<Arc<Maintainer>>,
}

/// The state of the router, as handlers extract it.
pub(super) type State = axum::extract::State<Arc<AppState>>;

/// The arguments of every call: the plane, its location, the caller, and whether the call is cancelled.
pub(super) struct Context<'a> {
    pub(super) plane: &'a ControlPlane,
    pub(super) location: &'a str,
    pub(super) caller: &'a Caller,
    pub(super) cancellation: &'a Cancellation,
}

impl Context<'_> {
    /// Returns a database that the caller may use with `access`. Later calls must identify it by its id, against which the token
    /// was checked: another database may take the name meanwhile.
    pub(super) fn database(&self, name: &str, access: Access) -> ApiResult<Database> {
        let database = self.plane.get_database(name)?;
        self.caller.require_for(&database, &self.plane.group_of_database(&database)?, access)?;
        Ok(database)
    }
}

impl AppState {
    /// Runs a call. `claims` are those of the request's verified token; revocation is checked here, because it needs the disk.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        class: CallClass,
        claims: Option<Claims>,
        call: impl FnOnce(&Context<'_>) -> ApiResult<T> + Send + 'static,
    ) -> ApiResult<T> {
        let app = Arc::clone(self);
        self.executor
            .run(class, move |cancellation| {
                let caller = match (&app.tokens, claims) {
                    (None, _) => Caller::unrestricted(),
                    (Some(tokens), Some(claims)) => tokens.authenticate(claims)?,
                    (Some(_), None) => return Err(ApiError::unauthorized("a token is required")),
                };
                let (plane, location) = (&app.plane, app.location.as_str());
                call(&Context { plane, location, caller: &caller, cancellation: &cancellation })
            })
            .await
    }

    /// Fails unless `slug` names the organization.
    pub(super) fn check_organization(&self, slug: &str) -> ApiResult<()> {
        match &self.organization {
            Some(known) if known != slug => {
                Err(ApiError::forbidden("you are not a member of this organization"))
            }
            _ => Ok(()),
        }
    }

    /// The token store. Fails if the server requires no tokens.
    pub(super) fn tokens(&self) -> ApiResult<Arc<TokenStore>> {
        self.tokens.clone().ok_or_else(|| {
            let status = axum::http::StatusCode::CONFLICT;
            ApiError::new(status, ErrorKind::Unsupported.as_str(), "this server has tokens disabled")
        })
    }
}
