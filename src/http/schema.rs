//! Schemas for the `OpenAPI` document of values that the library parses and formats itself.

use std::borrow::Cow;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{KnownFormat, Object, ObjectBuilder, OneOfBuilder, SchemaFormat, Type},
    },
};

use crate::{
    Cipher, DatabaseName, EncryptionKey, GroupName, HistoryLimit, InstantPosition, NAME_LEN_MAX, PageFormat,
    PruneReason, RemoteEncryption, Retention, SizeLimit, Timestamp,
};

fn text(description: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).description(Some(description))
}

fn name(description: &str) -> Object {
    text(description)
        .min_length(Some(1))
        .max_length(Some(NAME_LEN_MAX))
        .pattern(Some("^[a-z0-9-]+$"))
        .examples(["orders"])
        .build()
}

/// The schema of an optional value, which may be `null`.
fn or_null(schema: RefOr<Schema>) -> Schema {
    let null = ObjectBuilder::new().schema_type(Type::Null).build();
    Schema::OneOf(OneOfBuilder::new().item(Schema::Object(null)).item(schema).build())
}

macro_rules! schemas {
    ($($type:ident $(as $name:literal)?: $schema:expr;)*) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                RefOr::T(Schema::Object($schema))
            }
        }

        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                let names: &[&'static str] = &[$($name,)? stringify!($type)];
                names[0].into()
            }
        }
    )*};
}

schemas! {
    DatabaseName: name("The name of a database, unique in the organization.");
    GroupName: name("The name of a group, unique in the organization.");
    Timestamp: text("An instant with microsecond precision, in RFC 3339. Requests may use any offset; responses use UTC.")
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        .examples(["2026-01-31T12:00:00.000000Z"])
        .build();
    SizeLimit: text("Bytes, or a number with a binary unit, such as 1mb, 256mb or 1gb. Responses use bytes.")
        .pattern(Some("^([0-9]{4,12}|[1-9][0-9]{0,5}[kmgKMG][iI]?[bB])$"))
        .examples(["256mb"])
        .build();
    Retention as "HistoryWindow": text("How far back a database can be restored: a number of days, hours, minutes or seconds, or `off`.")
        .pattern(Some("^([0-9]{1,9}[dhms]|0|off)$"))
        .examples(["24h", "7d", "off"])
        .build();
    HistoryLimit: text("The largest size of a history: bytes, or a number with a binary unit, such as 1mb, 256mb or 1gb, or `none`. Responses use bytes.")
        .pattern(Some("^([0-9]{4,12}|[1-9][0-9]{0,5}[kmgKMG][iI]?[bB]|none)$"))
        .examples(["256mb"])
        .build();
    EncryptionKey: text("A key in base64, of 16 or 32 bytes, depending on the cipher. It is not stored.")
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Password)))
        .pattern(Some("^([A-Za-z0-9+/]{21}[AQgw]==|[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)$"))
        .build();
    Cipher: text("The AEAD cipher that seals every page of a database.")
        .enum_values(Some(Cipher::ALL.iter().map(|cipher| cipher.as_str())))
        .build();
    PageFormat: text("The layout of encrypted pages. An extension of Turso's API.")
        .enum_values(Some([PageFormat::Native, PageFormat::Turso].map(PageFormat::as_str)))
        .build();
    PruneReason: text("Why maintenance removed the oldest instants of a history: they were before its window, or exceeded its limit.")
        .enum_values(Some([PruneReason::Window, PruneReason::Limit].map(PruneReason::as_str)))
        .build();
    InstantPosition as "ReachedKind": text("The position of the instant among the commits of the database.")
        .enum_values(Some(
            [InstantPosition::Exact, InstantPosition::Between, InstantPosition::AfterLast, InstantPosition::BeforeFirst]
                .map(InstantPosition::as_str),
        ))
        .build();
}

impl PartialSchema for RemoteEncryption {
    fn schema() -> RefOr<Schema> {
        let description = "The key and cipher of an encrypted database. A fork of an encrypted database inherits the cipher of its source if it is omitted.";
        let body = ObjectBuilder::new()
            .description(Some(description))
            .property("encryption_key", EncryptionKey::schema())
            .property("encryption_cipher", or_null(Cipher::schema()))
            .property("page_format", or_null(PageFormat::schema()))
            .required("encryption_key");
        RefOr::T(Schema::Object(body.build()))
    }
}

impl ToSchema for RemoteEncryption {}
