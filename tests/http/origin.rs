//! Which host a request is for, and which web page it comes from.

use std::io::Write;

use serde_json::json;

use crate::server::{API, Server, connect_to, read_answer};

/// The status of a request whose head is sent as it is.
fn status(server: &Server, head: &str) -> u16 {
    let mut stream = connect_to(&server.address);
    stream.write_all(head.as_bytes()).unwrap();
    read_answer(&mut stream).status
}

fn without_tokens() -> Server {
    Server::start(tempfile::tempdir().unwrap(), &["--no-tokens"])
}

#[test]
fn a_request_names_one_host() {
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
    // Only the host name keeps a page of another name out where no tokens are asked for.
    let head = format!("GET /health HTTP/1.0\r\n{closing}");
    assert_eq!((status(&Server::new(), &head), status(&without_tokens(), &head)), (200, 403));
}

#[test]
fn pages_of_other_origins_reach_nothing_without_tokens() {
    let (open, guarded) = (without_tokens(), Server::new());
    open.done("POST", "/databases", &json!({ "name": "a", "group": "default" }));
    let paths = [format!("{API}/databases"), format!("{API}/databases/a/export"), "/ready".to_owned()];
    for path in &paths {
        for (site, expected) in [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)]
        {
            let answer = open.send("GET", path, &[("Sec-Fetch-Site", site)], b"");
            assert_eq!(answer.status, expected, "{path} from {site}: {answer:?}");
        }
    }
    // A link to the page, and a request with a token, which no page of another origin has.
    assert_eq!(open.send("GET", "/", &[("Sec-Fetch-Site", "cross-site")], b"").status, 200);
    let bearer = format!("Bearer {}", guarded.token);
    let headers = [("Sec-Fetch-Site", "cross-site"), ("Authorization", bearer.as_str())];
    assert_eq!(guarded.send("GET", &paths[0], &headers, b"").status, 200);
}
