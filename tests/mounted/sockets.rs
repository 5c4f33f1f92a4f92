//! Unix sockets and FIFOs in the mount.

use crate::common::*;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

in_default_mode!("": sockets_connect, socket_permissions, datagrams, fifos_carry_bytes, fifo_blocking_rules);

fn sockets_connect(m: &mut Mount) {
    let listener = UnixListener::bind(m.path("s")).unwrap();
    assert_eq!(
        FileType::from_raw_mode(lstat(m.path("s")).unwrap().st_mode),
        FileType::Socket
    );
    fails(Errno::ADDRINUSE, UnixListener::bind(m.path("s")));
    let mut client = UnixStream::connect(m.path("s")).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"hello").unwrap();
    drop(client);
    let mut all = String::new();
    server.read_to_string(&mut all).unwrap();
    assert_eq!(all, "hello");
    // It is found under another name, and with cold caches.
    rename(m.path("s"), m.path("t")).unwrap();
    drop_caches();
    drop(UnixStream::connect(m.path("t")).unwrap());
    fails(Errno::NOENT, UnixStream::connect(m.path("s")));
    drop(listener);
    fails(Errno::CONNREFUSED, UnixStream::connect(m.path("t")));
    put(m.path("f"), "x");
    fails(Errno::CONNREFUSED, UnixStream::connect(m.path("f")));
    unlink(m.path("t")).unwrap();
}

fn socket_permissions(m: &mut Mount) {
    let listener = ALICE.run(|| UnixListener::bind(m.path("s"))).unwrap();
    assert_eq!(owner(m.path("s")), (ALICE.uid, ALICE.gid));
    chmod(m.path("s"), 0o600).unwrap();
    BOB.run(|| fails(Errno::ACCESS, UnixStream::connect(m.path("s"))));
    chmod(m.path("s"), 0o666).unwrap();
    BOB.run(|| drop(UnixStream::connect(m.path("s")).unwrap()));
    drop(listener);
}

fn datagrams(m: &mut Mount) {
    let receiver = UnixDatagram::bind(m.path("to")).unwrap();
    let sender = UnixDatagram::bind(m.path("from")).unwrap();
    sender.send_to(b"one", m.path("to")).unwrap();
    let mut buffer = [0; 10];
    let (length, from) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"one");
    assert_eq!(from.as_pathname().unwrap(), m.path("from"));
}

fn fifos_carry_bytes(m: &mut Mount) {
    mknod(m.path("p"), FileType::Fifo, 0o666, 0).unwrap();
    let content = pattern(300_000, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = open(m.path("p"), OFlags::WRONLY, 0).unwrap();
            writer.write_all(&content).unwrap();
        });
        let mut all = Vec::new();
        open_read(m.path("p"))
            .unwrap()
            .read_to_end(&mut all)
            .unwrap();
        assert!(all == content);
    });
    assert_eq!(lstat(m.path("p")).unwrap().st_size, 0);
}

fn fifo_blocking_rules(m: &mut Mount) {
    mknod(m.path("p"), FileType::Fifo, 0o600, 0).unwrap();
    fails(
        Errno::NXIO,
        open(m.path("p"), OFlags::WRONLY | OFlags::NONBLOCK, 0),
    );
    let mut reader = open(m.path("p"), OFlags::RDONLY | OFlags::NONBLOCK, 0).unwrap();
    let mut writer = open(m.path("p"), OFlags::WRONLY | OFlags::NONBLOCK, 0).unwrap();
    // One pipe, whichever name it is reached by.
    link(m.path("p"), m.path("q")).unwrap();
    let mut other = open(m.path("q"), OFlags::WRONLY | OFlags::NONBLOCK, 0).unwrap();
    writer.write_all(b"one").unwrap();
    other.write_all(b"two").unwrap();
    let mut buffer = [0; 10];
    assert_eq!(reader.read(&mut buffer).unwrap(), 6);
    assert_eq!(&buffer[..6], b"onetwo");
    fails(Errno::AGAIN, reader.read(&mut buffer));
    drop((writer, other));
    assert_eq!(reader.read(&mut buffer).unwrap(), 0);
    BOB.run(|| {
        fails(
            Errno::ACCESS,
            open(m.path("p"), OFlags::RDONLY | OFlags::NONBLOCK, 0),
        )
    });
}
