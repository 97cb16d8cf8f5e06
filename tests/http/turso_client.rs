//! Turso's own client, `@tursodatabase/api` 2.0.5 from npm: every method for groups and databases. `LITEFLEET_TURSO_CLIENT` names a
//! directory with the package in its `node_modules`; `.ci/run` installs one.

use std::process::Command;

use crate::server::Server;

#[test]
#[ignore = "needs @tursodatabase/api 2.0.5: set LITEFLEET_TURSO_CLIENT to a directory that has it"]
fn turso_client_works_unchanged() {
    let packages = std::env::var_os("LITEFLEET_TURSO_CLIENT").expect("LITEFLEET_TURSO_CLIENT is set");
    let server = Server::new();
    // Node resolves modules relative to the script.
    let script = std::path::Path::new(&packages).join("litefleet-client.mjs");
    std::fs::write(&script, include_str!("turso_client.mjs")).unwrap();
    let output = Command::new("node")
        .arg(&script)
        .env("BASE_URL", format!("http://{}/v1/", server.address))
        .env("TOKEN", &server.token)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n");
}
