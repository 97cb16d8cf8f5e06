//! Checks of the host and the origin of a request.

use std::io::Write;

use serde_json::json;

use crate::server::{API, Server, connect_to, read_response};

/// Sends a request head verbatim, and returns the status of the response.
fn status(server: &Server, head: &str) -> u16 {
    let mut stream = connect_to(&server.address);
    stream.write_all(head.as_bytes()).unwrap();
    read_response(&mut stream).status
}

fn without_tokens() -> Server {
    Server::start(tempfile::tempdir().unwrap(), &["--no-tokens"])
}

#[test]
fn request_must_name_exactly_one_host() {
    let closing = "Connection: close\r\n\r\n";
    for server in [Server::new(), without_tokens()] {
        for (head, expected) in [
            ("GET /health HTTP/1.1\r\nHost: localhost\r\n", 200),
            ("GET /health HTTP/1.1\r\n", 400),
            ("GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n", 400),
            ("GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n", 400),
            ("GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\n", 200),
            ("GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n", 400),
            ("GET http://localhost/health HTTP/1.1\r\nHost: evil.example\r\n", 400),
            ("GET /health HTTP/1.0\r\nHost: localhost\r\nHost: localhost\r\n", 400),
        ] {
            assert_eq!(status(&server, &format!("{head}{closing}")), expected, "{head}");
        }
    }
    // Without tokens the host name is the only protection against DNS rebinding, so it is required.
    let head = format!("GET /health HTTP/1.0\r\n{closing}");
    assert_eq!((status(&Server::new(), &head), status(&without_tokens(), &head)), (200, 403));
}

#[test]
fn cross_site_request_is_refused_without_tokens() {
    let (open, guarded) = (without_tokens(), Server::new());
    open.ok("POST", "/databases", &json!({ "name": "a", "group": "default" }));
    let paths = [format!("{API}/databases"), format!("{API}/databases/a/export"), "/ready".to_owned()];
    for path in &paths {
        for (site, expected) in [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)]
        {
            let response = open.send("GET", path, &[("Sec-Fetch-Site", site)], b"");
            assert_eq!(response.status, expected, "{path} from {site}: {response:?}");
        }
    }
    // Links to the page are allowed, and requests with a token, which pages of other origins cannot have.
    assert_eq!(open.send("GET", "/", &[("Sec-Fetch-Site", "cross-site")], b"").status, 200);
    let bearer = format!("Bearer {}", guarded.token);
    let headers = [("Sec-Fetch-Site", "cross-site"), ("Authorization", bearer.as_str())];
    assert_eq!(guarded.send("GET", &paths[0], &headers, b"").status, 200);
}
