//! Every shader and every pipeline before a second, stricter compiler of WGSL: Tint, in headless Chromium. naga takes
//! WGSL that the specification refuses, and browsers with it.
//!
//! Where there is no Chromium the test is skipped, but not if `SMOOTHCNN_REQUIRE_ALL` is set. With `SMOOTHCNN_THOROUGH`
//! the pipelines are built as well, which takes a minute. `CHROMIUM` names the program.

#[path = "../common/skip.rs"]
mod skip;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use serde_json::{Value, json};

/// The software driver builds each pipeline; on a machine that does other things as well this took 80 seconds.
const LIMIT: Duration = Duration::from_secs(400);

/// Ends with the test, whichever way it ends.
struct Browser(Child);

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether what takes a minute is done as well.
fn thorough() -> bool {
    std::env::var_os("SMOOTHCNN_THOROUGH").is_some_and(|value| !value.is_empty())
}

fn chromium() -> Option<String> {
    let named = std::env::var("CHROMIUM").ok().into_iter();
    let usual = ["chromium", "chromium-browser", "google-chrome"].map(String::from);
    let runs = |name: &String| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    named.chain(usual).find(runs)
}

/// Starts it on `address`, with everything that it writes in `profile`.
fn browse(program: &str, address: &str, profile: &std::path::Path) -> Browser {
    let child = Command::new(program)
        .args(["--headless", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions"])
        .args(["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(address)
        .envs(["HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"].map(|name| (name, profile)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Browser(child.unwrap_or_else(|error| panic!("{program}: {error}")))
}

/// Answers requests on the loopback interface, until the process ends.
fn serve(listener: TcpListener, shaders: String, answers: Sender<String>) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (shaders, answers) = (shaders.clone(), answers.clone());
            // A connection that breaks is the browser's; the test waits for what it posts, up to its limit.
            std::thread::spawn(move || answer(stream, &shaders, &answers));
        }
    });
}

fn answer(stream: TcpStream, shaders: &str, answers: &Sender<String>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = String::new();
    reader.take(length).read_to_string(&mut body)?;
    match request.split_whitespace().take(2).collect::<Vec<_>>()[..] {
        ["GET", "/"] => reply(stream, "text/html", include_str!("page.html")),
        ["GET", "/shaders.json"] => reply(stream, "application/json", shaders),
        // Never loaded: with --dump-dom, the browser ends once the page is.
        ["GET", "/hold"] => {
            std::thread::sleep(LIMIT);
            Ok(())
        }
        ["POST", "/answer"] => {
            reply(stream, "text/plain", "")?;
            // Nobody listens once the test is over.
            let _ = answers.send(body);
            Ok(())
        }
        _ => reply(stream, "text/plain", ""),
    }
}

fn reply(mut stream: TcpStream, kind: &str, body: &str) -> std::io::Result<()> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

/// What Tint says of these shaders: `[{name, source, entries, subgroups}]`.
fn ask(program: &str, shaders: Value) -> Value {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback interface");
    let address = format!("http://{}/", listener.local_addr().expect("its address"));
    let (sender, answers) = channel();
    serve(listener, shaders.to_string(), sender);
    let profile = tempfile::tempdir().expect("a folder");
    let browser = browse(program, &address, profile.path());
    let answer = answers.recv_timeout(LIMIT);
    drop(browser);
    let answer = answer.unwrap_or_else(|_| panic!("{program} gave no answer within {LIMIT:?}"));
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

fn as_json(name: &str, source: &str, entries: Vec<&str>) -> Value {
    json!({ "name": name, "source": source, "entries": entries, "subgroups": name.contains("_lanes") })
}

/// Catches WGSL that a browser refuses: an operator that wants parentheses, a barrier or a shuffle that cannot be seen
/// to be reached by all. Two shaders of that kind are refused, so that the test is known to see it.
#[test]
fn tint_takes_every_shader_and_every_pipeline() {
    let Some(program) = chromium() else {
        return skip::skipped("there is no Chromium: apt install chromium");
    };
    let faulty = [
        ("parentheses", "@compute @workgroup_size(1) fn main() { var a = 1u; a = a | a << 8u; }"),
        (
            "uniformity",
            "struct Own { group: u32, local: u32 }
             @compute @workgroup_size(64)
             fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
                 let own = Own(group.x, local);
                 if own.group > 7u { return; }
                 workgroupBarrier();
             }",
        ),
    ];
    let all: Vec<_> = smoothcnn::ops::shaders().collect();
    let mut shaders: Vec<_> = all
        .iter()
        .map(|shader| {
            let entries = shader.entries().iter().filter(|_| thorough());
            as_json(shader.name, shader.source(), entries.map(|entry| entry.name.as_str()).collect())
        })
        .collect();
    shaders.extend(faulty.map(|(name, source)| as_json(name, source, vec!["main"])));
    let answer = ask(&program, Value::Array(shaders));

    assert_eq!(answer["other"], json!([]), "{answer:#}");
    let found = answer["shaders"].as_array().expect("shaders");
    assert_eq!(found.len(), all.len() + faulty.len(), "{answer:#}");
    let (own, refused) = found.split_at(all.len());
    for (shader, (name, _)) in refused.iter().zip(faulty) {
        assert_ne!(shader["errors"], json!([]), "{name} was taken: the test sees nothing");
    }
    let mut skipped = vec![];
    for (shader, found) in all.iter().zip(own) {
        assert_eq!(found["name"], shader.name);
        assert_eq!(found["errors"], json!([]), "{}.wgsl", shader.name);
        if found["skipped"] == true {
            skipped.push(shader.name);
        } else {
            let pipelines = if thorough() { shader.entries().len() } else { 0 };
            assert_eq!(found["pipelines"], pipelines, "{}.wgsl", shader.name);
        }
    }
    println!("{} of {} shaders on {}", all.len() - skipped.len(), all.len(), answer["adapter"]);
    if !skipped.is_empty() {
        skip::skipped(&format!("this Chromium has no subgroups for {skipped:?}"));
    }
}
