//! The services thread: it survives its tasks, and its stop is bounded.

use ringpost_runtime::Services;
use std::future::pending;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// Dropped with the future that owns it.
struct Owned(Sender<()>);

fn owned() -> (Owned, Receiver<()>) {
    let (sender, receiver) = channel();
    (Owned(sender), receiver)
}

/// Asserts that the future that owned the other end is gone.
fn check_dropped(receiver: &Receiver<()>) {
    assert_eq!(receiver.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
}

#[test]
fn a_panic_in_a_task_ends_that_task() {
    let services = Services::start().expect("starts");
    let (owned, receiver) = owned();
    services.handle().spawn(async move {
        let _owned = owned;
        panic!("on purpose");
    });
    check_dropped(&receiver);
    let (sender, receiver) = channel();
    services.handle().spawn(async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        sender.send(std::thread::current().name().map(str::to_owned)).expect("the test waits");
    });
    assert_eq!(receiver.recv_timeout(PATIENCE), Ok(Some("services".to_owned())));
    services.stop();
}

#[test]
fn tasks_that_wait_are_dropped_by_the_stop() {
    let services = Services::start().expect("starts");
    let (owned, receiver) = owned();
    services.handle().spawn(async move {
        owned.0.send(()).expect("the test waits");
        pending::<()>().await;
    });
    assert_eq!(receiver.recv_timeout(PATIENCE), Ok(()));
    services.stop();
    assert_eq!(
        receiver.try_recv(),
        Err(std::sync::mpsc::TryRecvError::Disconnected),
        "dropped before the stop returns"
    );
}

#[test]
fn a_task_that_comes_after_the_stop_is_dropped() {
    let services = Services::start().expect("starts");
    let handle = services.handle();
    services.stop();
    let (owned, receiver) = owned();
    handle.spawn(async move {
        let _owned = owned;
        pending::<()>().await;
    });
    check_dropped(&receiver);
}

#[test]
fn dropping_the_services_ends_the_thread() {
    let services = Services::start().expect("starts");
    let (owned, receiver) = owned();
    services.handle().spawn(async move {
        let _owned = owned;
        pending::<()>().await;
    });
    drop(services);
    check_dropped(&receiver);
}

#[test]
fn a_task_that_never_gives_way_does_not_hold_up_the_stop() {
    let services = Services::start().expect("starts");
    let (begun, receiver) = channel();
    let (release, released) = channel::<()>();
    services.handle().spawn(async move {
        begun.send(()).expect("the test waits");
        let _ = released.recv();
    });
    assert_eq!(receiver.recv_timeout(PATIENCE), Ok(()));
    // It returns although the task runs on: `release` is only dropped below.
    services.stop();
    drop(release);
}
