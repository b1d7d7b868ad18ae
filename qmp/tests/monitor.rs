//! The monitor client against a real QEMU.

mod common;

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use common::{DEADLINE, Qemu};
use qapi::qmp as q;
use qmp::agent::Agent;
use qmp::{Error, ErrorClass, Monitor};
use tokio::net::UnixListener;

#[tokio::test]
async fn greeting_tells_the_version_and_oob() {
    let qemu = Qemu::bare();
    let (monitor, _events) = qemu.monitor().await;
    assert!(monitor.version().at_least(5, 2), "{}", monitor.version());
    let asked = monitor.execute(q::query_version {}, DEADLINE).await.unwrap();
    assert_eq!(i64::from(monitor.version().major), asked.qemu.major);
    assert_eq!(i64::from(monitor.version().minor), asked.qemu.minor);
    assert!(monitor.has_oob(), "QEMU offers oob on socket monitors since 4.0");
    monitor.execute_oob(q::query_yank {}, DEADLINE).await.unwrap();
}

#[tokio::test]
async fn typed_raw_and_human_commands() {
    let qemu = Qemu::bare();
    let (monitor, _events) = qemu.monitor().await;
    let status = monitor.execute(q::query_status {}, DEADLINE).await.unwrap();
    assert_eq!((status.running, status.status), (false, q::RunState::prelaunch));
    let raw = monitor.execute_raw("query-status", serde_json::Value::Null, DEADLINE).await.unwrap();
    assert_eq!(raw["status"], "prelaunch");
    assert!(monitor.human("info status", DEADLINE).await.unwrap().contains("paused"));
    // The longest answers that QEMU has.
    let schema = monitor.execute(q::query_qmp_schema {}, DEADLINE).await.unwrap();
    assert!(schema.len() > 100);
}

#[tokio::test]
async fn refusals_are_typed_and_the_connection_goes_on() {
    let qemu = Qemu::bare();
    let (monitor, _events) = qemu.monitor().await;
    let error = monitor.execute_raw("no-such-command", serde_json::json!({}), DEADLINE).await.unwrap_err();
    assert_eq!(error.class(), Some(&ErrorClass::CommandNotFound), "{error}");
    let error = monitor.execute_raw("cont", serde_json::json!({"colour": 1}), DEADLINE).await.unwrap_err();
    assert!(
        matches!(&error, Error::Qemu { command, desc, .. } if command == "cont" && desc.contains("colour"))
    );
    let error = monitor.execute_raw("cont", serde_json::json!([1]), DEADLINE).await.unwrap_err();
    assert!(matches!(error, Error::Arguments { .. }), "{error}");
    monitor.execute(q::query_status {}, DEADLINE).await.unwrap();
}

#[tokio::test]
async fn many_commands_at_once_from_many_tasks() {
    let qemu = Qemu::bare();
    let (monitor, _events) = qemu.monitor().await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..100 {
        let monitor = monitor.clone();
        tasks.spawn(async move {
            let name = format!("n{number}");
            // Each answer names its own question.
            let error =
                monitor.execute_raw(&name, serde_json::Value::Null, DEADLINE).await.unwrap_err().to_string();
            assert!(error.contains(&format!("The command {name} has not been found")), "{error}");
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn descriptors_arrive_each_under_its_name() {
    let qemu = Qemu::bare();
    let (monitor, _events) = qemu.monitor().await;
    // All at once: each command must take the descriptor that was sent with it.
    let files: Vec<File> = (0..12).map(|_| tempfile::tempfile().unwrap()).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for (number, file) in files.iter().enumerate() {
        let (monitor, file) = (monitor.clone(), file.try_clone().unwrap());
        tasks.spawn(async move {
            let command = q::add_fd { fdset_id: None, opaque: Some(number.to_string()) };
            let info = monitor.execute_with_fd(command, file.as_fd(), DEADLINE).await.unwrap();
            (number, info.fd)
        });
    }
    while let Some(done) = tasks.join_next().await {
        let (number, fd) = done.unwrap();
        let of_qemu = std::fs::metadata(format!("/proc/{}/fd/{fd}", qemu.pid())).unwrap();
        let ours = files[number].metadata().unwrap();
        assert_eq!((of_qemu.dev(), of_qemu.ino()), (ours.dev(), ours.ino()));
    }
    let error = monitor.execute(q::getfd { fdname: "x".into() }, DEADLINE).await.unwrap_err();
    assert!(error.to_string().contains("No file descriptor supplied"), "{error}");
}

#[tokio::test]
async fn events_of_a_machine_from_cont_to_quit() {
    let mut qemu = Qemu::q35(&[]);
    let (monitor, mut events) = qemu.monitor().await;
    monitor.execute(q::cont {}, DEADLINE).await.unwrap();
    let resume = events.recv().await.unwrap();
    assert_eq!(resume.name, "RESUME");
    assert!(matches!(resume.typed(), Some(q::Event::RESUME { .. })));
    assert!(resume.timestamp.elapsed().unwrap() < DEADLINE);
    let mut second = monitor.subscribe();
    monitor.execute(q::stop {}, DEADLINE).await.unwrap();
    assert_eq!(events.recv().await.unwrap().name, "STOP");
    assert_eq!(second.recv().await.unwrap().name, "STOP");
    assert!(monitor.closed_now().is_none());
    monitor.execute(q::quit {}, DEADLINE).await.unwrap();
    let shutdown = events.recv().await.unwrap().read::<q::SHUTDOWN>().unwrap();
    assert_eq!((shutdown.guest, shutdown.reason), (false, q::ShutdownCause::host_qmp_quit));
    assert!(matches!(monitor.closed().await, Error::Closed));
    assert!(events.recv().await.is_none());
    assert_eq!(second.recv().await.unwrap().name, "SHUTDOWN");
    assert!(qemu.wait().success());
    let error = monitor.execute(q::query_status {}, DEADLINE).await.unwrap_err();
    assert!(matches!(error, Error::Closed), "{error}");
}

#[tokio::test]
async fn a_killed_qemu_ends_pending_calls_and_the_connection() {
    let mut qemu = Qemu::bare();
    let (monitor, mut events) = qemu.monitor().await;
    qemu.kill();
    assert!(matches!(monitor.closed().await, Error::Closed));
    assert!(events.recv().await.is_none());
    assert!(matches!(monitor.execute(q::query_status {}, DEADLINE).await, Err(Error::Closed)));
}

#[tokio::test]
async fn dropping_the_last_handle_frees_the_monitor_for_the_next_client() {
    let qemu = Qemu::bare();
    for _ in 0..3 {
        let (monitor, events) = qemu.monitor().await;
        let other = monitor.clone();
        drop(monitor);
        other.execute(q::query_status {}, DEADLINE).await.unwrap();
        drop(other);
        drop(events);
    }
}

#[tokio::test]
async fn a_second_client_waits_in_the_backlog_until_the_first_is_gone() {
    let qemu = Qemu::bare();
    let (first, _events) = qemu.monitor().await;
    let waiting = qemu.stream().await;
    let connect = Monitor::connect(waiting, DEADLINE);
    tokio::pin!(connect);
    // The first is served, the second is not.
    tokio::select! {
        biased;
        _ = &mut connect => panic!("a monitor served two clients"),
        status = first.execute(q::query_status {}, DEADLINE) => drop(status.unwrap()),
    }
    drop(first);
    let (second, _events) = connect.await.unwrap();
    second.execute(q::query_status {}, DEADLINE).await.unwrap();
}

#[tokio::test]
async fn a_migration_to_a_passed_descriptor_writes_into_it() {
    let qemu = Qemu::q35(&[]);
    let (monitor, _events) = qemu.monitor().await;
    let mut file = tempfile::tempfile().unwrap();
    let command = q::getfd { fdname: "out".into() };
    monitor.execute_with_fd(command, file.as_fd(), DEADLINE).await.unwrap();
    let done = monitor.migrate("fd:out", &[], DEADLINE).await.unwrap();
    assert!(done.total_time <= DEADLINE);
    let mut magic = [0; 4];
    file.rewind().unwrap();
    file.read_exact(&mut magic).unwrap();
    assert_eq!(&magic, b"QEVM");
}

#[tokio::test]
async fn a_migration_that_fails_says_why() {
    let qemu = Qemu::q35(&[]);
    let (monitor, _events) = qemu.monitor().await;
    let error = monitor.migrate("fd:missing", &[], DEADLINE).await.unwrap_err();
    assert!(matches!(&error, Error::Qemu { command, .. } if command == "migrate"), "{error}");
    // Accepted at first, and failing on its way.
    let error = monitor.migrate("exec:exit 1", &[], DEADLINE).await.unwrap_err();
    assert!(matches!(&error, Error::Migration { status, .. } if status == "failed"), "{error}");
}

#[tokio::test]
async fn state_travels_from_one_qemu_into_the_next() {
    let source = Qemu::q35(&[]);
    let (monitor, _events) = source.monitor().await;
    let file = tempfile::tempfile().unwrap();
    monitor.execute_with_fd(q::getfd { fdname: "s".into() }, file.as_fd(), DEADLINE).await.unwrap();
    monitor.migrate("fd:s", &[], DEADLINE).await.unwrap();

    let target = Qemu::q35(&["-incoming", "defer"]);
    let (monitor, mut events) = target.monitor().await;
    let mut file = file;
    file.rewind().unwrap();
    monitor.execute_with_fd(q::getfd { fdname: "s".into() }, file.as_fd(), DEADLINE).await.unwrap();
    monitor.migrate_incoming("fd:s", &[], DEADLINE).await.unwrap();
    monitor.execute(q::cont {}, DEADLINE).await.unwrap();
    while events.recv().await.unwrap().name != "RESUME" {}
}

#[tokio::test]
async fn a_job_is_waited_for_and_dismissed() {
    let qemu = Qemu::bare();
    let (monitor, _events) = qemu.monitor().await;
    let path = qemu.folder.path().join("disk");
    std::fs::write(&path, b"").unwrap();
    let arguments = serde_json::json!({
        "job-id": "make",
        "options": {"driver": "file", "filename": path, "size": 1 << 20},
    });
    monitor.run_job("blockdev-create", arguments.clone(), "make", DEADLINE).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 20);
    assert!(monitor.execute(q::query_jobs {}, DEADLINE).await.unwrap().is_empty(), "dismissed");
    // Its id is free again, and a wait that starts after the job's end sees the end.
    monitor.execute_raw("blockdev-create", arguments, DEADLINE).await.unwrap();
    monitor.wait_job("make", DEADLINE).await.unwrap();
    monitor.wait_job("never-was", DEADLINE).await.unwrap();
}

#[tokio::test]
async fn a_job_that_fails_says_why() {
    let qemu = Qemu::bare();
    let (monitor, _events) = qemu.monitor().await;
    let arguments = serde_json::json!({
        "job-id": "make",
        "options": {"driver": "file", "filename": "/nonexistent/folder/disk", "size": 1 << 20},
    });
    let error = monitor.run_job("blockdev-create", arguments, "make", DEADLINE).await.unwrap_err();
    assert!(
        matches!(&error, Error::Job { id, desc } if id == "make" && desc.contains("No such file")),
        "{error}"
    );
}

#[tokio::test]
async fn nobody_behind_a_real_virtio_serial_port() {
    // QEMU has the port, but no guest opens it: nothing is read and nothing is said.
    let short = Duration::from_millis(20);
    let folder = tempfile::TempDir::with_prefix("qmp-test-").unwrap();
    let listener = UnixListener::bind(folder.path().join("agent")).unwrap();
    let chardev = format!("socket,id=agent,path={}", folder.path().join("agent").display());
    let port = "virtserialport,chardev=agent,name=org.qemu.guest_agent.0";
    let qemu = Qemu::q35(&["-device", "virtio-serial", "-chardev", &chardev, "-device", port]);
    let (monitor, _events) = qemu.monitor().await;
    let (stream, _) = listener.accept().await.unwrap();
    let agent = Agent::connect(stream);
    for _ in 0..3 {
        assert!(agent.sync(short).await.unwrap_err().is_timeout());
        assert!(agent.ping(short).await.unwrap_err().is_timeout());
    }
    // Not even when the socket takes no more.
    assert!(agent.write_file("/f", &vec![0; 4 << 20], short).await.unwrap_err().is_timeout());
    monitor.execute(q::quit {}, DEADLINE).await.unwrap();
    monitor.closed().await;
    assert!(matches!(agent.ping(DEADLINE).await, Err(Error::Closed)));
}
