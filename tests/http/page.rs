//! The web page: its headers and, in headless Chromium, its functions. `LITEFLEET_CHROMIUM` names a directory with
//! `playwright-core` in its `node_modules`; `.ci/run` installs one, and Debian's package `chromium`.

use std::{path::Path, process::Command};

use litefleet::{ConnectOptions, rusqlite::Connection};

use crate::server::Server;

#[test]
fn page_is_public_with_a_strict_content_policy() {
    let server = Server::new();
    let page = server.send("GET", "/", &[], b"");
    assert_eq!(page.status, 200);
    for line in [
        "content-type: text/html; charset=utf-8",
        "x-content-type-options: nosniff",
        "x-frame-options: deny",
        "referrer-policy: no-referrer",
        "cache-control: no-cache",
    ] {
        assert!(page.head.contains(&format!("\r\n{line}\r\n")), "{line}: {}", page.head);
    }
    let policy = page.head.lines().find(|line| line.starts_with("content-security-policy: ")).unwrap();
    for rule in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert_eq!(policy.matches(rule).count(), 1, "{rule}: {policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'), "{policy}");
    for (path, kind) in
        [("page.js", "text/javascript"), ("page.css", "text/css"), ("page.svg", "image/svg+xml")]
    {
        let file = server.send("GET", &format!("/page/{path}"), &[], b"");
        assert!(file.status == 200 && file.head.contains(&format!("content-type: {kind}")), "{path}");
        assert!(file.head.contains(policy), "{path}");
    }
    // The page offers every cipher of the library.
    let dialogs = server.send("GET", "/page/dialogs.js", &[], b"");
    for cipher in litefleet::Cipher::ALL {
        assert!(dialogs.text.contains(&format!("\"{cipher}\"")), "{cipher}");
    }
    // The page is public, so it must contain no secrets.
    assert!(!page.text.contains(&server.token) && !page.text.contains(server.root().to_str().unwrap()));
    // Requests from other origins are refused for the page as well.
    assert_eq!(server.send("GET", "/", &[("Origin", "http://elsewhere.example")], b"").status, 403);
}

/// Writes a SQLite file of 20 MB, whose upload takes long enough to be observed.
fn write_file(path: &Path) {
    Connection::open(path)
        .unwrap()
        .execute_batch(
            "CREATE TABLE t(a); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000)
             INSERT INTO t SELECT randomblob(1000) FROM n",
        )
        .unwrap();
}

#[test]
#[ignore = "needs Chromium and playwright-core: set LITEFLEET_CHROMIUM to a directory that has the latter"]
fn page_works_in_a_browser() {
    let packages = std::env::var_os("LITEFLEET_CHROMIUM").expect("LITEFLEET_CHROMIUM is set");
    let server = Server::new();
    let open = Server::start(tempfile::tempdir().unwrap(), &["--no-tokens"]);
    let dir = tempfile::tempdir().unwrap();
    write_file(&dir.path().join("upload.db"));
    std::fs::write(dir.path().join("junk.db"), vec![7; 8 << 20]).unwrap();
    server.create("orders");
    let connection = server.plane().connect("orders", ConnectOptions::default()).unwrap();
    connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    connection.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    drop(connection);
    for number in 0..130 {
        server.create(&format!("tenant-{number:03}"));
    }
    // Node resolves modules relative to the script.
    let script = Path::new(&packages).join("litefleet-page.mjs");
    std::fs::write(&script, include_str!("page.mjs")).unwrap();
    let output = Command::new("node")
        .arg(&script)
        .env("BASE_URL", format!("http://{}/", server.address))
        .env("OPEN_URL", format!("http://{}/", open.address))
        .env("TOKEN", &server.token)
        .env("FILES", dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n");
    // The effects are visible to other clients.
    let rows = |name: &str| -> u32 {
        let connection = server.plane().connect(name, ConnectOptions::default()).unwrap();
        connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    };
    assert_eq!((rows("orders"), rows("then"), rows("uploaded")), (2, 1, 20_000));
    let exported = Connection::open(dir.path().join("exported.db")).unwrap();
    assert_eq!(exported.query_row("SELECT count(*) FROM t", [], |row| row.get(0)), Ok(1));
}
