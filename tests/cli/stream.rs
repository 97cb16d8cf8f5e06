//! `db shell` reads standard input statement by statement.

use std::io::{BufRead, BufReader, Write};

use serde_json::json;

use crate::Shell;

#[test]
fn shell_runs_each_statement_of_standard_input_as_it_arrives() {
    let shell = Shell::new();
    shell.run_ok(&["db", "create", "a", "--group", "default"]);
    let mut running = shell.command(&["db", "shell", "a", "--json"]).spawn().unwrap();
    let mut input = running.stdin.take().unwrap();
    let mut output = BufReader::new(running.stdout.take().unwrap());
    // The result of each statement arrives before the next statement is sent.
    for (part, expected) in [
        ("create table t(a); insert into t values (1) returning a; select 'open", "[{\"a\":1}]\n"),
        (" ;' as x;", "[{\"x\":\"open ;\"}]\n"),
        ("-- none\nselect sum(a) as s from t;\n", "[{\"s\":1}]\n"),
    ] {
        input.write_all(part.as_bytes()).unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, expected);
    }
    // The semicolon of the last statement may be missing.
    input.write_all(b"select 2 as last").unwrap();
    drop(input);
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "[{\"last\":2}]\n");
    assert!(running.wait().unwrap().success());

    // Statements before an error have run. The position of the error counts from the start of the input.
    let output =
        shell.run(&["db", "shell", "a"], "insert into t values (2);\n\n select  from t; drop table t;");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: near \"from\": syntax error at line 3, column 10\n"
    );
    assert_eq!(shell.json(&["db", "shell", "a", "select sum(a) as s from t"]), json!([{"s": 3}]));
}
