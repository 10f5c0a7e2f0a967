//! The protocol with plain HTTP: names, ranges, lists, append-only, quotas, limits.

use super::harness::*;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// Sends bytes as they are and gives the status, or 0 when the connection just ends.
fn raw(vault: &Vault, request: &str) -> u16 {
    let mut stream = TcpStream::connect(vault.address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    // A reset after the answer is as good as an end.
    stream.read_to_string(&mut answer).ok();
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

#[test]
fn a_wrong_name_is_refused_and_leaves_nothing() {
    let dir = temp();
    let vault = Vault::plain(dir.path(), &[]);
    create(&vault, "register");
    let before = files(dir.path());
    let content = noise(1, 3 << 20);
    let wrong = id(b"something else");
    let response =
        client().post(vault.url(&format!("register/data/{wrong}"))).body(content.clone()).send().unwrap();
    assert_eq!(response.status(), 400);
    assert!(response.text().unwrap().contains("SHA-256"));
    // Cut off in the middle, with and without a length announced.
    let name = id(&content);
    let half = "POST /register/data/NAME HTTP/1.1\r\nhost: v\r\ncontent-length: 100\r\n\r\nonly this";
    for request in
        [half.replace("NAME", &name), half.replace("content-length: 100", "transfer-encoding: chunked")]
    {
        let mut stream = TcpStream::connect(vault.address).unwrap();
        stream.write_all(request.replace("NAME", &name).as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok();
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    assert_no_leftovers(dir.path());
    assert_eq!(files(dir.path()), before);
}

#[test]
fn what_is_stored_is_never_altered_or_deleted() {
    let dir = temp();
    let vault = Vault::plain(dir.path(), &[]);
    create(&vault, "register");
    for kind in ["data", "keys", "snapshots", "index"] {
        stored(&vault, "register", kind, format!("content of {kind}").as_bytes());
    }
    let before = files(dir.path());
    // A retry after a lost reply is fine; so is the same config again.
    stored(&vault, "register", "data", b"content of data");
    let again = client().post(vault.url("register/config")).body("a config").send().unwrap();
    assert_eq!(again.status(), 200);
    let other = client().post(vault.url("register/config")).body("another config").send().unwrap();
    assert_eq!(other.status(), 403);
    // Wrong content for a name that is taken.
    let name = id(b"content of data");
    let wrong = client().post(vault.url(&format!("register/data/{name}"))).body("other").send().unwrap();
    assert_eq!(wrong.status(), 400);
    for path in [
        format!("register/data/{name}"),
        format!("register/keys/{}", id(b"content of keys")),
        format!("register/snapshots/{}", id(b"content of snapshots")),
        format!("register/index/{}", id(b"content of index")),
        "register/config".to_owned(),
        "register/".to_owned(),
        "register/dispatches/00000000000000000001".to_owned(),
    ] {
        assert_eq!(client().delete(vault.url(&path)).send().unwrap().status(), 403, "{path}");
    }
    assert_eq!(files(dir.path()), before);
    // A lock can go, and only once.
    let lock = stored(&vault, "register", "locks", b"a lock");
    let url = vault.url(&format!("register/locks/{lock}"));
    assert_eq!(client().delete(&url).send().unwrap().status(), 200);
    assert_eq!(client().delete(&url).send().unwrap().status(), 404);
    assert_eq!(files(dir.path()), before);
}

#[test]
fn ranges_heads_and_lists() {
    let dir = temp();
    let vault = Vault::plain(dir.path(), &[]);
    create(&vault, "register");
    let content = noise(2, 700_000);
    let name = stored(&vault, "register", "data", &content);
    let small = stored(&vault, "register", "data", b"small");
    let url = vault.url(&format!("register/data/{name}"));
    let head = client().head(&url).send().unwrap();
    assert_eq!((head.status().as_u16(), head.headers()["content-length"].to_str().unwrap()), (200, "700000"));
    assert_eq!(client().get(&url).send().unwrap().bytes().unwrap(), content);
    for (range, expected) in [
        ("bytes=0-", &content[..]),
        ("bytes=5-9", &content[5..10]),
        ("bytes=600000-900000", &content[600_000..]),
        ("bytes=-7", &content[699_993..]),
    ] {
        let part = client().get(&url).header("range", range).send().unwrap();
        assert_eq!(part.status(), 206, "{range}");
        assert!(part.headers().contains_key("content-range"));
        assert_eq!(part.bytes().unwrap(), expected, "{range}");
    }
    assert_eq!(client().get(&url).header("range", "bytes=700000-").send().unwrap().status(), 416);

    let list = vault.url("register/data/");
    let mut names = vec![name.clone(), small.clone()];
    names.sort();
    let v1 = client().get(&list).send().unwrap();
    assert_eq!(v1.headers()["content-type"], "application/vnd.x.restic.rest.v1");
    assert_eq!(v1.json::<Vec<String>>().unwrap(), names);
    let v2 = client().get(&list).header("accept", "application/vnd.x.restic.rest.v2").send().unwrap();
    assert_eq!(v2.headers()["content-type"], "application/vnd.x.restic.rest.v2");
    let sizes: serde_json::Value = v2.json().unwrap();
    assert!(sizes.as_array().unwrap().contains(&serde_json::json!({"name": name, "size": 700_000})));
    assert!(sizes.as_array().unwrap().contains(&serde_json::json!({"name": small, "size": 5})));
    let empty = client().get(vault.url("register/locks/")).send().unwrap();
    assert_eq!(empty.text().unwrap(), "[]");
}

#[test]
fn a_long_list_arrives_whole() {
    let dir = temp();
    let vault = Vault::plain(dir.path(), &[]);
    create(&vault, "register");
    // Put in place by hand: 3,000 names are more than one piece of the stream.
    let mut names: Vec<String> = (0..3_000).map(|n: u32| id(&n.to_le_bytes())).collect();
    for name in &names {
        std::fs::write(dir.path().join("register/snapshots").join(name), "x").unwrap();
    }
    std::fs::write(dir.path().join("register/snapshots/not-an-id"), "x").unwrap();
    names.sort();
    let list = client().get(vault.url("register/snapshots/")).send().unwrap();
    assert_eq!(list.json::<Vec<String>>().unwrap(), names);
}

#[test]
fn odd_names_reach_nothing() {
    let dir = temp();
    let data = dir.path().join("data");
    let vault = Vault::plain(&data, &[]);
    create(&vault, "register");
    std::fs::write(dir.path().join("secret"), "secret").unwrap();
    let name = id(b"x");
    let upper = name.to_uppercase();
    for path in [
        "/",
        "/register",
        "/../secret",
        "/register/../../secret",
        "/register/data/../config",
        "/register/data/..%2f..%2fconfig",
        "/%2e%2e/secret",
        "//register/config",
        "/.tmp/0",
        "/.lock",
        "/register/epoch",
        "/register/data",
        "/Register/config",
        "/register/tmp/",
        "/register/data/00/",
    ] {
        let status = raw(&vault, &format!("GET {path} HTTP/1.1\r\nhost: v\r\nconnection: close\r\n\r\n"));
        assert_eq!(status, 400, "{path}");
    }
    for target in
        [&format!("/register/data/{upper}"), "/register/data/zz", "/../evil/?create=true", "/-x/?create=true"]
    {
        let request =
            format!("POST {target} HTTP/1.1\r\nhost: v\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx");
        assert_eq!(raw(&vault, &request), 400, "{target}");
    }
    for (request, status) in [
        ("PUT /register/config HTTP/1.1\r\nhost: v\r\nconnection: close\r\n\r\n", 405),
        ("POST /register/ HTTP/1.1\r\nhost: v\r\nconnection: close\r\n\r\n", 400),
        (
            "POST /nobody/data/NAME HTTP/1.1\r\nhost: v\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx",
            404,
        ),
    ] {
        assert_eq!(raw(&vault, &request.replace("NAME", &name)), status, "{request}");
    }
    assert!(!dir.path().join("evil").exists());
}

#[test]
fn two_repositories_see_nothing_of_each_other() {
    let dir = temp();
    let vault = Vault::plain(dir.path(), &["--repository", "one", "--repository", "two"]);
    create(&vault, "one");
    create(&vault, "two");
    let name = stored(&vault, "one", "data", b"of one");
    assert_eq!(client().get(vault.url(&format!("two/data/{name}"))).send().unwrap().status(), 404);
    assert_eq!(client().get(vault.url("two/data/")).send().unwrap().text().unwrap(), "[]");
    let third = client().post(vault.url("three/?create=true")).send().unwrap();
    assert_eq!(third.status(), 403);
    assert!(!dir.path().join("three").exists());
}

#[test]
fn the_quota_is_a_507_that_leaves_all_intact() {
    let dir = temp();
    let (data, quotas) = (dir.path().join("data"), dir.path().join("quotas.json"));
    std::fs::write(&quotas, r#"{"register": 1048576}"#).unwrap();
    let vault = Vault::plain(&data, &["--quota-file", quotas.to_str().unwrap()]);
    create(&vault, "register");
    create(&vault, "other");
    let kept = stored(&vault, "register", "data", &noise(3, 900_000));
    let before = files(&data);
    let too_much = noise(4, 200_000);
    let (name, refused) = put(&vault, "register", "data", &too_much);
    assert_eq!(refused.status(), 507);
    assert!(refused.text().unwrap().contains("quota of 1048576 bytes"));
    // Without a length it shows only on the way.
    let chunked = client()
        .post(vault.url(&format!("register/data/{name}")))
        .body(reqwest::blocking::Body::new(std::io::Cursor::new(too_much.clone())))
        .send()
        .unwrap();
    assert_eq!(chunked.status(), 507);
    assert_no_leftovers(&data);
    assert_eq!(files(&data), before);
    // Readers still lock, the neighbour still writes, and what is there can be read.
    stored(&vault, "register", "locks", b"a lock");
    stored(&vault, "other", "data", &too_much);
    let read = client().get(vault.url(&format!("register/data/{kept}"))).send().unwrap();
    assert_eq!(id(&read.bytes().unwrap()), kept);
    let status: serde_json::Value =
        client().get(vault.url("register/status")).send().unwrap().json().unwrap();
    assert_eq!((&status["quota"], &status["repository"]), (&1_048_576.into(), &true.into()));
    assert!(
        status["used"].as_u64().unwrap() > 900_000 && status["fsTotal"].as_u64() > status["free"].as_u64()
    );
    // A raised quota is seen without a restart.
    std::fs::write(&quotas, r#"{"register": 2097152}"#).unwrap();
    wait_for("the raised quota is used", SOON, || {
        let (_, response) = put(&vault, "register", "data", &too_much);
        (response.status() == 200).then_some(())
    });
}

#[test]
fn floods_of_keys_and_oversized_objects_are_refused() {
    let dir = temp();
    let vault = Vault::plain(dir.path(), &[]);
    create(&vault, "register");
    for n in 0..64_u32 {
        stored(&vault, "register", "keys", &n.to_le_bytes());
    }
    let (_, refused) = put(&vault, "register", "keys", b"one more");
    assert_eq!(refused.status(), 507);
    // The same key again is no new one.
    stored(&vault, "register", "keys", &7_u32.to_le_bytes());
    for (kind, length) in [("locks", (64 << 10) + 1), ("keys", (64 << 10) + 1), ("snapshots", (8 << 20) + 1)]
    {
        let (_, refused) = put(&vault, "register", kind, &noise(5, length));
        assert_eq!(refused.status(), 413, "{kind}");
    }
    let body = "x".repeat(65 << 10);
    let config = client().post(vault.url("register/config")).body(body).send().unwrap();
    assert_eq!(config.status(), 413);
    assert_no_leftovers(dir.path());
}

#[test]
fn slow_clients_are_dropped() {
    let dir = temp();
    let vault = Vault::plain(dir.path(), &["--client-timeout", "1", "--max-connections", "8"]);
    create(&vault, "register");
    let big = stored(&vault, "register", "data", &noise(6, 16 << 20));
    let name = id(b"never sent");
    let header = "GET /register/config HTTP/1.1\r\nhos";
    let body = format!("POST /register/data/{name} HTTP/1.1\r\nhost: v\r\ncontent-length: 100\r\n\r\nx");
    let reader = format!("GET /register/data/{big} HTTP/1.1\r\nhost: v\r\n\r\n");
    // As many as there are places: were they not dropped, nobody else would get in.
    let open = |request: &&str| {
        let mut stream = TcpStream::connect(vault.address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    let idle_readers: Vec<TcpStream> = [&reader[..], &reader].iter().map(open).collect();
    let senders: Vec<TcpStream> = [header, &body, "", header, &body, ""].iter().map(open).collect();
    for mut sender in senders {
        let end = sender.read_to_end(&mut vec![]);
        let timed_out = end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out, "a client that sends nothing is still connected");
    }
    wait_for("those that do not read are gone, too", SOON, || {
        (vault.metric("embassy_vault_connections ") == Some(0.0)).then_some(())
    });
    assert_eq!(client().get(vault.url("register/config")).send().unwrap().status(), 200);
    assert_no_leftovers(dir.path());
    drop(idle_readers);
}

#[test]
fn a_stop_lets_an_upload_end() {
    let dir = temp();
    let mut vault = Vault::plain(dir.path(), &[]);
    create(&vault, "register");
    let content = noise(7, 100_000);
    let name = id(&content);
    let mut stream = TcpStream::connect(vault.address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let head = format!("POST /register/data/{name} HTTP/1.1\r\nhost: v\r\ncontent-length: 100000\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&content[..50_000]).unwrap();
    wait_for("the upload is on its way", SOON, || {
        (!files(&dir.path().join(".tmp")).is_empty()).then_some(())
    });
    vault.signal(rustix::process::Signal::TERM);
    wait_for("no new connection is taken", SOON, || TcpStream::connect(vault.address).err());
    stream.write_all(&content[50_000..]).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let exit = wait_for("the vault ends", Duration::from_secs(10), || vault.child.try_wait().unwrap());
    assert!(exit.success());
    assert!(dir.path().join("register/data").join(&name[..2]).join(&name).exists());
}

#[test]
fn a_second_vault_on_the_same_folder_does_not_start() {
    let dir = temp();
    let _vault = Vault::plain(dir.path(), &[]);
    let data = dir.path().to_str().unwrap();
    let log = Vault::try_start(&flags(&["--insecure-standalone", "--data", data])).err().unwrap();
    assert!(log.contains("in use by another vault"), "{log}");
}

#[test]
fn plain_http_is_for_loopback_only() {
    let dir = temp();
    let data = dir.path().to_str().unwrap();
    let run = |flags: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_embassy")).args(flags).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let open = run(&["vault", "--insecure-standalone", "--data", data, "--listen", "0.0.0.0:0"]);
    assert!(open.contains("loopback only"), "{open}");
    let unchecked = run(&["vault", "--no-epoch-check", "--data", data]);
    assert!(unchecked.contains("--insecure-standalone"), "{unchecked}");
    let nothing = run(&["vault", "--data", data, "--listen", "127.0.0.1:0"]);
    assert!(nothing.contains("--tls-cert is needed"), "{nothing}");
}
