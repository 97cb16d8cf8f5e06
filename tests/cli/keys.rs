//! Keys: errors about them, and printed commands, which never contain them.

use std::process::Command;

use crate::Shell;

#[test]
fn printed_undo_command_works() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("it's a \"place\"");
    std::fs::create_dir(&place).unwrap();
    let key = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=";
    std::fs::write(place.join("the key"), key).unwrap();
    let run = |arguments: &[&str], environment: &[(&str, &str)]| {
        let output = Command::new(env!("CARGO_BIN_EXE_litefleet"))
            .args(arguments)
            .current_dir(&place)
            .envs(environment.iter().copied())
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let as_file = ["--key-file", "the key"];
    let as_argument = ["--remote-encryption-key", key];
    let root = ["--root", "my fleet"];
    run(&[&root[..], &["group", "create", "default"]].concat(), &[]);
    let cipher = ["--remote-encryption-cipher", "aegis256"];
    run(&[&root[..], &["db", "create", "plain"]].concat(), &[]);
    run(&[&root[..], &["db", "create", "sealed"], &cipher, &as_file].concat(), &[]);
    let by_variable = [("LITEFLEET_ROOT", "my fleet"), ("LITEFLEET_ENCRYPTION_KEY", key)];
    for (name, options, environment) in [
        ("plain", [&root[..]].concat(), &[][..]),
        ("sealed", [&root[..], &as_file].concat(), &[]),
        ("sealed", [&root[..], &as_argument].concat(), &[]),
        ("sealed", Vec::new(), &by_variable[..]),
    ] {
        let (options, key_options) = options.split_at(options.len().min(2));
        let shell = |sql: &str| {
            run(&[options, &["db", "shell", name, sql, "--json"], key_options].concat(), environment)
        };
        shell("create table if not exists t(a); delete from t; insert into t values (1)");
        let before = litefleet::Timestamp::now().to_string();
        shell("insert into t values (2)");
        let restore = ["db", "restore", name, "--timestamp", &before];
        let printed = run(&[options, &restore, key_options].concat(), environment);
        assert_eq!(shell("select count(*) as n from t"), "[{\"n\":1}]\n");
        assert!(!printed.contains(key), "{printed}");
        let mut undo = printed.lines().find_map(|line| line.strip_prefix("To undo it: ")).unwrap().to_owned();
        if key_options.contains(&key) {
            // The placeholder is explained.
            assert!(undo.ends_with(" --key-file KEY_FILE"), "{undo}");
            assert!(printed.contains("\n(replace KEY_FILE with the path of a file"), "{printed}");
            undo = undo.replace("KEY_FILE", "\"$PLACE\"/'the key'");
        }
        // In another directory, and with another fleet in the environment.
        let mut shell_command = Command::new("sh");
        shell_command.args(["-c", &undo]).current_dir(dir.path()).env("PLACE", &place);
        shell_command.envs(environment.iter().copied()).env("LITEFLEET_ROOT", "another");
        let output = shell_command.output().unwrap();
        assert!(output.status.success(), "{undo}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(shell("select count(*) as n from t"), "[{\"n\":2}]\n", "{undo}");
    }
}

#[test]
fn key_errors_explain_how_to_give_a_key() {
    let shell = Shell::new();
    let write = |name: &str, key: &str| std::fs::write(shell.0.path().join(name), key).unwrap();
    let key = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=";
    write("key", key);
    write("other", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    write("short", "AAAAAAAAAAAAAAAAAAAAAA==");
    write("junk", "junk!");
    let create = ["db", "create", "vault", "--remote-encryption-cipher", "aegis256"];
    let fails = |arguments: &[&str]| shell.run_err(1, arguments);
    let gives = "give it with --key-file FILE or in LITEFLEET_ENCRYPTION_KEY";
    assert!(fails(&create).contains(gives));
    shell.run_ok(&[&create[..], &["--key-file", "key"]].concat());
    let now = litefleet::Timestamp::now().to_string();
    for command in [
        &["db", "shell", "vault", "select 1"][..],
        &["db", "export", "vault", "x.db", "--decrypt"],
        &["db", "restore", "vault", "--timestamp", &now],
        &["db", "create", "fork", "--from-db", "vault"],
    ] {
        let error = fails(command);
        assert!(error.contains("its encryption key is required") && error.contains(gives), "{error}");
        let error = fails(&[command, &["--key-file", "other"]].concat());
        assert!(error.contains("this is not the key"), "{error}");
        assert!(error.contains("key file other") && error.contains("LITEFLEET_ENCRYPTION_KEY"), "{error}");
        let error = fails(&[command, &["--key-file", "short"]].concat());
        assert!(error.starts_with("error: key file short: invalid key size for aegis256"), "{error}");
        let error = fails(&[command, &["--key-file", "junk"]].concat());
        assert_eq!(error, "error: key file junk: encryption key is not valid base64\n");
        let error = fails(&[command, &["--remote-encryption-key", "junk!"]].concat());
        assert_eq!(error, "error: --remote-encryption-key: encryption key is not valid base64\n");
    }
    // With the key of the source, that of the fork is missing.
    let only_source = ["--source-encryption-key", key];
    let error = fails(&[&["db", "create", "fork", "--from-db", "vault"][..], &only_source].concat());
    assert!(
        error.contains("the fork fork needs an encryption key of its own; give it with --key-file"),
        "{error}"
    );
    shell.run_ok(&["db", "export", "vault", "sealed.db"]);
    let error = fails(&[&["db", "create", "copy", "--from-file", "sealed.db"][..], &only_source].concat());
    assert!(error.contains("the database needs a cipher and an encryption key of its own"), "{error}");
    let error = fails(&["db", "create", "fork", "--from-db", "vault", "--key-file", "other"]);
    assert!(error.contains("if the source has another key, give it with --source-encryption-key or in LITEFLEET_SOURCE_ENCRYPTION_KEY"), "{error}");
    assert!(!error.contains("AAAA"), "{error}");
    let error = fails(&["db", "create", "plain", "--key-file", "key"]);
    assert!(error.contains("--remote-encryption-cipher"), "{error}");
}
