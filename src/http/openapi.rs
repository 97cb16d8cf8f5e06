//! The `OpenAPI` document of what is served. The paths are those of the routes themselves, and the schemas those of the types
//! that bodies are read into and written from, so that it cannot say anything else.

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

/// The name of the way to authenticate.
const SCHEME: &str = "token";

/// What the parts of a path stand for.
const PATH_PARAMETERS: &[(&str, &str)] = &[
    ("organization", "The organization's name. Any will do, unless the server was started with one."),
    ("name", "The name of the database, or of the group."),
    (
        "location",
        "The name of the location: there is one, `local` unless the server was started with another name.",
    ),
    ("instance", "The name of the instance, which is that of the location."),
    ("upload_id", "The id that the start of the upload answered."),
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
    /// What every call may be answered.
    Refused {
        BAD_REQUEST "What was sent is not right: the sentence says what."
        UNAUTHORIZED "There is no token, or it is not good for this."
        FORBIDDEN "The token is read-only, the organization has another name, or a web page of another origin asks."
        REQUEST_TIMEOUT "The body came more slowly than 1 KiB a second for 30 seconds."
        INTERNAL_SERVER_ERROR "The server could not do it, for a reason of its own: the sentence says which."
        SERVICE_UNAVAILABLE "The server has too much to do, or is shutting down: try again after the seconds in `Retry-After`."
    }
    /// For calls whose path names something.
    Missing {
        NOT_FOUND "There is nothing of this name."
    }
    /// For calls that the state of things can forbid.
    Conflict {
        CONFLICT "The name is taken, or the thing is protected, blocked or a draft."
    }
    /// For asking whether there would be an answer.
    NotReady {
        FORBIDDEN "A web page of another origin asks."
        INTERNAL_SERVER_ERROR "The catalog does not answer."
        SERVICE_UNAVAILABLE "The server has too much to do, or is shutting down."
    }
    /// For calls that write.
    NoRoom {
        PAYLOAD_TOO_LARGE "It would be larger than its size limit."
        INSUFFICIENT_STORAGE "The disk is full. Nothing was left behind."
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

/// The document without paths, for the routes to add theirs to.
pub(super) fn document() -> OpenApi {
    let license = License::builder().name("MIT OR Apache-2.0").identifier(Some("MIT OR Apache-2.0")).build();
    let mut info = Info::new("litefleet", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "Turso's Platform API over a fleet of SQLite databases. Unknown fields of a body are ignored, `null` counts as left out, and keys may be in any case.".into(),
    );
    info.license = Some(license);
    let tag = |name: &str, description: &str| -> Tag {
        TagBuilder::new().name(name).description(Some(description)).build()
    };
    let tags = [
        tag("databases", "Databases: their life, their limits and their history."),
        tag("groups", "Groups of databases."),
        tag("uploads", "SQLite files for drafts: on the host name of the draft, or at a path."),
        tag("server", "The server itself."),
    ];
    OpenApiBuilder::new().info(info).tags(Some(tags)).build()
}

/// The document as it is served, with what holds for all paths.
pub(super) fn finish(mut document: OpenApi, asks_for_tokens: bool) -> OpenApi {
    for (path, item) in &mut document.paths.paths {
        for operation in operations(item) {
            add_path_parameters(path, operation);
        }
    }
    let components = document.components.get_or_insert_default();
    components.schemas.insert(ErrorBody::name().into_owned(), <ErrorBody as utoipa::PartialSchema>::schema());
    if asks_for_tokens {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").description(
            Some("A token of the organization, or where it is enough of the group or the database."),
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

/// The routes name the parts of their paths in braces.
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
