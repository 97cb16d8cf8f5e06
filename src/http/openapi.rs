//! The `OpenAPI` document, derived from the routes and from the types of the bodies.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{
        ContentBuilder, Info, License, ObjectBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response,
        ResponseBuilder, Tag,
        header::HeaderBuilder,
        path::{Operation, ParameterBuilder, ParameterIn, PathItem},
        schema::Type,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
        tag::TagBuilder,
    },
};

use super::body::ErrorBody;

/// The name of the security scheme.
const SCHEME: &str = "token";

/// Descriptions of path parameters.
const PATH_PARAMETERS: &[(&str, &str)] = &[
    (
        "organization",
        "The name of the organization. Any name is accepted unless the server is configured with one.",
    ),
    ("name", "The name of the database or group."),
    ("location", "The name of the only location, `local` unless the server is configured with another."),
    ("instance", "The name of the instance, which is that of the location."),
    ("upload_id", "The id that starting the upload returned."),
    ("number", "The number of the chunk, from 0."),
];

macro_rules! failures {
    ($($(#[$doc:meta])* $set:ident { $($status:ident $description:literal)* })*) => {$(
        $(#[$doc])*
        pub(super) struct $set;

        impl IntoResponses for $set {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                [$(failure(StatusCode::$status, $description)),*].into()
            }
        }
    )*};
}

failures! {
    /// Errors of every call.
    Refused {
        BAD_REQUEST "The request is invalid."
        UNAUTHORIZED "The token is missing, or not valid for this resource."
        FORBIDDEN "The token is read-only, the organization has another name, or the request is from a web page of another origin."
        REQUEST_TIMEOUT "The body arrived more slowly than 1 KiB a second for 30 seconds."
        INTERNAL_SERVER_ERROR "The server failed."
        SERVICE_UNAVAILABLE "The server is overloaded or shutting down. Retry after the seconds in `Retry-After`."
    }
    /// The error of calls whose path names a resource.
    Missing {
        NOT_FOUND "The resource does not exist."
    }
    /// The error of calls that the state of the resource can forbid.
    Conflict {
        CONFLICT "The name is taken, or the resource is protected, blocked or a draft."
    }
    /// Errors of the readiness check.
    NotReady {
        FORBIDDEN "The request is from a web page of another origin."
        INTERNAL_SERVER_ERROR "The catalog cannot be read."
        SERVICE_UNAVAILABLE "The server is overloaded or shutting down."
    }
    /// Errors of calls that write.
    NoRoom {
        PAYLOAD_TOO_LARGE "The database would exceed its size limit."
        INSUFFICIENT_STORAGE "The disk is full. Nothing was changed."
    }
}

fn failure(status: StatusCode, description: &str) -> (String, RefOr<Response>) {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(ErrorBody::name()))).build();
    let mut response = ResponseBuilder::new().description(description).content("application/json", content);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
        response = response.header("Retry-After", HeaderBuilder::new().schema(Some(seconds)).build());
    }
    (status.as_str().to_owned(), RefOr::T(response.build()))
}

/// The document without paths, which the routes add.
pub(super) fn document() -> OpenApi {
    let license = License::builder().name("MIT OR Apache-2.0").identifier(Some("MIT OR Apache-2.0")).build();
    let mut info = Info::new("litefleet", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "Turso's Platform API for a fleet of SQLite databases. Unknown fields of a body are ignored, `null` is the same as an omitted field, and keys may be in any case.".into(),
    );
    info.license = Some(license);
    let tag = |name: &str, description: &str| -> Tag {
        TagBuilder::new().name(name).description(Some(description)).build()
    };
    let tags = [
        tag("databases", "Databases, their configuration and their history."),
        tag("groups", "Groups of databases."),
        tag("uploads", "Uploads of SQLite files to drafts, on the host name of the draft or at a path."),
        tag("server", "The server itself."),
    ];
    OpenApiBuilder::new().info(info).tags(Some(tags)).build()
}

/// Completes the document with path parameters, the error body and the security scheme.
pub(super) fn finish(mut document: OpenApi, requires_tokens: bool) -> OpenApi {
    for (path, item) in &mut document.paths.paths {
        for operation in operations(item) {
            add_path_parameters(path, operation);
        }
    }
    let components = document.components.get_or_insert_default();
    components.schemas.insert(ErrorBody::name().into_owned(), <ErrorBody as utoipa::PartialSchema>::schema());
    if requires_tokens {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").description(
            Some("A token of the organization or, where it suffices, of the group or database."),
        );
        components.add_security_scheme(SCHEME, SecurityScheme::Http(scheme.build()));
        document.security = Some(vec![SecurityRequirement::new(SCHEME, Vec::<String>::new())]);
    }
    document
}

pub(super) fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}

/// Describes the parameters of a path, which are in braces.
fn add_path_parameters(path: &str, operation: &mut Operation) {
    let parameters = operation.parameters.get_or_insert_default();
    for part in path.split('/') {
        let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) else { continue };
        if parameters.iter().any(|parameter| matches!(parameter, RefOr::T(known) if known.name == name)) {
            continue;
        }
        let description = PATH_PARAMETERS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
        let parameter = ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Path)
            .required(utoipa::openapi::Required::True)
            .description(description)
            .schema(Some(match name {
                "name" => <crate::DatabaseName as utoipa::PartialSchema>::schema(),
                "number" => ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).into(),
                _ => ObjectBuilder::new().schema_type(Type::String).into(),
            }));
        parameters.push(RefOr::T(parameter.build()));
    }
}
