//! Downloads as a user starts them; how they go is tested beside their code.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;

use assert_cmd::assert::{Assert, OutputAssertExt};
use tempfile::tempdir;

use super::{assert_fails, command, run, snapshot, stdout};

/// A server that gives everyone this answer.
fn server(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            lines.map_while(|line| line.ok().filter(|line| !line.is_empty())).for_each(drop);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

fn fetch(dir: &Path, args: &str) -> Assert {
    let mut command = command(dir, &format!("data fetch {args}"));
    for variable in ["ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] {
        command.env_remove(variable);
    }
    command.assert()
}

/// Who has no files yet is told how to come by them.
#[test]
fn a_set_that_is_not_there_can_be_fetched() {
    let dir = tempdir().unwrap();
    for (set, fetched) in [
        ("mnist", "mnist"),
        ("fashion-mnist", "fashion-mnist"),
        ("cifar-10", "cifar-10"),
        ("cifar-100", "cifar-100"),
        ("cifar-100-coarse", "cifar-100"),
    ] {
        let failed = run(dir.path(), &format!("train --data {set} --device cpu"));
        assert_fails(failed, 4, &[&format!("`smoothcnn data fetch {fetched}` downloads")]);
    }
}

/// Catches a page that is taken for data, an exit code that is not the documented one, and what is left behind.
#[test]
fn what_is_no_data_is_refused() {
    let dir = tempdir().unwrap();
    let page = server("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 13\r\n\r\n<html></html>");
    let parts =
        [&page[..], "train-images-idx3-ubyte.gz: found a file of 13 bytes, expected 9912422 bytes with SHA-256"];
    assert_fails(fetch(dir.path(), &format!("mnist --url {page}")), 4, &parts);
    let nothing = server("HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let parts = ["cifar-100-binary.tar.gz: found HTTP status 404, expected the file"];
    assert_fails(fetch(dir.path(), &format!("cifar-100 --url {nothing} --data-dir d")), 1, &parts);
    assert!(snapshot(dir.path()).values().all(Vec::is_empty), "{:?}", snapshot(dir.path()).keys());
}

#[test]
fn a_file_of_ones_own_is_never_replaced() {
    let dir = tempdir().unwrap();
    let folder = dir.path().join("data/FashionMNIST/raw");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("train-images-idx3-ubyte.gz"), "mine").unwrap();
    let before = snapshot(dir.path());
    // Nobody is asked: there is no such server.
    let failed = fetch(dir.path(), "fashion-mnist --url http://127.0.0.1:1");
    let parts = ["train-images-idx3-ubyte.gz: found 4 bytes with SHA-256 ", "expected 26421880 bytes", "move it away"];
    assert_fails(failed, 4, &parts);
    assert!(snapshot(dir.path()) == before);
}

#[test]
fn what_is_wrongly_asked_for_is_said() {
    let dir = tempdir().unwrap();
    let refused = |args: &str, expected: &str| {
        let done = fetch(dir.path(), args).code(2);
        let text = String::from_utf8(done.get_output().stderr.clone()).unwrap();
        assert!(text.contains(expected), "{text}");
    };
    refused("imagenet", "expected one of mnist, fashion-mnist, cifar-10, cifar-100");
    refused("mnist --url ftp://x", "expected http://… or https://…");
    let help = stdout(&run(dir.path(), "data --help").success());
    assert!(help.contains("fetch") && help.contains("mnist, fashion-mnist, cifar-10 or cifar-100"), "{help}");
    assert!(snapshot(dir.path()).is_empty());
}
