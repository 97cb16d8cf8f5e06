//! Turso's own client, `@tursodatabase/api` 2.0.5 from npm: every method that it has for groups and databases. It needs a
//! directory with that package in its `node_modules`, which `LITEFLEET_TURSO_CLIENT` names; `.ci/run` installs one.

use std::process::Command;

use crate::server::Server;

#[test]
#[ignore = "needs @tursodatabase/api 2.0.5: set LITEFLEET_TURSO_CLIENT to a directory that has it"]
fn tursos_own_client_works_unchanged() {
    let packages = std::env::var_os("LITEFLEET_TURSO_CLIENT").expect("LITEFLEET_TURSO_CLIENT is set");
    let server = Server::new();
    // A module is looked for beside the script.
    let script = std::path::Path::new(&packages).join("litefleet-client.mjs");
    std::fs::write(&script, include_str!("client.mjs")).unwrap();
    let output = Command::new("node")
        .arg(&script)
        .env("BASE_URL", format!("http://{}/v1/", server.address))
        .env("TOKEN", &server.token)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n");
}
