//! Extractors: the token, path, query and body of a request, and calls made for it.

use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{header, request::Parts},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    app::{AppState, Context},
    auth::Access,
    body::Claims,
    body_reader::BodyReader,
    error::{ApiError, ApiResult},
    executor::{CallClass, Cancellation},
};
use crate::{Database, Timestamp};

/// Maximum length of a JSON body in bytes.
const BODY_LEN_MAX: usize = 256 << 10;

/// A JSON response.
pub(super) type JsonResult<T> = ApiResult<Json<T>>;

/// The sender of a request, with the claims of its token, or `None` if the server requires no tokens.
///
/// A request without a token signed by this server is rejected before anything else in it is read. Revocation is checked when
/// the call runs. Neither this type nor a body implements `Debug`, because they may hold secrets.
pub(super) struct Sender {
    pub(super) app: Arc<AppState>,
    claims: Option<Claims>,
}

impl Sender {
    /// Runs a call for the sender.
    pub(super) async fn run<T: Send + 'static>(
        self,
        class: CallClass,
        call: impl FnOnce(&Context<'_>) -> ApiResult<T> + Send + 'static,
    ) -> ApiResult<T> {
        self.app.run(class, self.claims, call).await
    }
}

impl FromRequestParts<Arc<AppState>> for Sender {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> ApiResult<Self> {
        let app = Arc::clone(app);
        let Some(tokens) = &app.tokens else { return Ok(Self { app, claims: None }) };
        let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let missing = || ApiError::unauthorized("a token is required: Authorization: Bearer TOKEN");
        let (_, token) = token.ok_or_else(missing)?;
        let claims = Some(tokens.verify(token.trim())?);
        Ok(Self { app, claims })
    }
}

/// A request for a resource of the organization, whose path below the organization is `P`.
pub(super) struct Call<P = ()> {
    sender: Sender,
    path: P,
}

/// The parameters of a path below the organization.
pub(super) trait PathParams: Sized + Send + 'static {
    /// All parameters of the path, starting with the organization.
    type All: DeserializeOwned + Send;

    /// Separates the organization from the other parameters.
    fn split(all: Self::All) -> (String, Self);
}

impl PathParams for () {
    type All = String;

    fn split(organization: String) -> (String, ()) {
        (organization, ())
    }
}

impl PathParams for String {
    type All = (String, String);

    fn split(all: Self::All) -> (String, Self) {
        all
    }
}

impl PathParams for (String, String) {
    type All = (String, String, String);

    fn split((organization, name, part): Self::All) -> (String, Self) {
        (organization, (name, part))
    }
}

impl<P: PathParams> FromRequestParts<Arc<AppState>> for Call<P> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> ApiResult<Self> {
        let sender = Sender::from_request_parts(parts, app).await?;
        let PathParam(all) = PathParam::<P::All>::from_request_parts(parts, app).await?;
        let (organization, path) = P::split(all);
        app.check_organization(&organization)?;
        Ok(Self { sender, path })
    }
}

impl<P: PathParams> Call<P> {
    pub(super) fn app(&self) -> &AppState {
        &self.sender.app
    }

    /// Runs a call that requires `access` to the organization.
    pub(super) async fn manage<T: Send + 'static>(
        self,
        class: CallClass,
        access: Access,
        call: impl FnOnce(&Context<'_>, P) -> ApiResult<T> + Send + 'static,
    ) -> JsonResult<T> {
        let Self { sender, path } = self;
        let call = move |context: &Context<'_>| {
            context.caller.require(access)?;
            call(context, path).map(Json)
        };
        sender.run(class, call).await
    }

    /// Runs a call that reads the catalog.
    pub(super) async fn read<T: Send + 'static>(
        self,
        call: impl FnOnce(&Context<'_>, P) -> ApiResult<T> + Send + 'static,
    ) -> JsonResult<T> {
        self.manage(CallClass::Catalog, Access::ReadOnly, call).await
    }

    /// Runs a call that writes the catalog.
    pub(super) async fn write<T: Send + 'static>(
        self,
        call: impl FnOnce(&Context<'_>, P) -> ApiResult<T> + Send + 'static,
    ) -> JsonResult<T> {
        self.manage(CallClass::Catalog, Access::Full, call).await
    }
}

impl Call<String> {
    /// Runs a call on the database that the path names, which requires `access` to this database only.
    pub(super) async fn with_database<T: Send + 'static>(
        self,
        class: CallClass,
        access: Access,
        call: impl FnOnce(&Context<'_>, Database, &Cancellation) -> ApiResult<T> + Send + 'static,
    ) -> ApiResult<T> {
        let Self { sender, path: name } = self;
        let call = move |context: &Context<'_>| {
            call(context, context.database(&name, access)?, context.cancellation)
        };
        sender.run(class, call).await
    }
}

/// A JSON body. The content type is ignored, keys may be in any case, and an empty body or `null` is an empty object: clients
/// of the API rely on each of these.
pub(super) struct JsonBody(Value);

impl JsonBody {
    pub(super) fn into_value(self) -> Value {
        self.0
    }

    pub(super) fn parse<T: DeserializeOwned>(self) -> ApiResult<T> {
        serde_json::from_value(self.0)
            .map_err(|error| ApiError::bad_request(format!("invalid request: {error}")))
    }
}

impl<S: Sync> FromRequest<S> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> ApiResult<Self> {
        let bytes = BodyReader::read_all(request.into_body(), BODY_LEN_MAX).await;
        let Some(bytes) = bytes.map_err(|error| error.into_api_error("the body"))? else {
            return Err(ApiError::bad_request(format!("the body is longer than {BODY_LEN_MAX} bytes")));
        };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(Value::Object(serde_json::Map::new())));
        }
        // serde_json reports a position in the body and does not quote it.
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(keys)) => Ok(Self(Value::Object(with_lowercase_keys(keys)))),
            Ok(Value::Null) => Ok(Self(Value::Object(serde_json::Map::new()))),
            Ok(_) => Err(ApiError::bad_request("invalid request: the body must be a JSON object")),
            Err(error) => Err(ApiError::bad_request(format!("invalid request: {error}"))),
        }
    }
}

/// Converts the keys of an object to lower case. A key that is in lower case already takes precedence.
fn with_lowercase_keys(keys: serde_json::Map<String, Value>) -> serde_json::Map<String, Value> {
    let mut result = serde_json::Map::new();
    let (lower, other): (Vec<_>, Vec<_>) =
        keys.into_iter().partition(|(key, _)| !key.bytes().any(|byte| byte.is_ascii_uppercase()));
    result.extend(lower);
    for (key, value) in other {
        result.entry(key.to_ascii_lowercase()).or_insert(value);
    }
    result
}

/// axum's `Path`, with the API's error response.
#[derive(Debug)]
pub(super) struct PathParam<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathParam<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(path)| Self(path)).map_err(|error| ApiError::bad_request(error.body_text()))
    }
}

/// axum's `Query`, with the API's error response.
#[derive(Debug)]
pub(super) struct QueryParams<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for QueryParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|error| ApiError::bad_request(error.body_text()))
    }
}

/// Parses an instant in a query parameter.
pub(super) fn parse_instant(parameter: &str, text: Option<&str>) -> ApiResult<Option<Timestamp>> {
    text.map(str::parse)
        .transpose()
        .map_err(|error| ApiError::bad_request(format!("invalid {parameter} parameter: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowercase_key_takes_precedence() {
        let keys = |text| serde_json::from_str::<serde_json::Map<String, Value>>(text).unwrap_or_default();
        let lower = |text| with_lowercase_keys(keys(text));
        assert_eq!(lower(r#"{"Name": 1, "LOCATION": 2}"#), keys(r#"{"name": 1, "location": 2}"#));
        assert_eq!(lower(r#"{"Name": 1, "name": 2}"#), keys(r#"{"name": 2}"#));
    }
}
