//! The Platform API, tested over HTTP against the program.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

mod access;
mod api;
mod chunked_uploads;
mod connections;
mod crash;
mod curl_examples;
mod export;
mod load;
mod maintenance;
mod openapi;
mod operation;
mod origin;
mod page;
mod paths;
mod private_dir;
mod server;
mod turso_client;
mod upload_checks;
mod uploads;
