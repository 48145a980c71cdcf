//! Listening sockets.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel may hold before they are accepted; it caps this by `net.core.somaxconn`.
const BACKLOG: i32 = 4_096;

/// A listening TCP socket with `SO_REUSEPORT`, so that each data thread has its own on the same address. Nonblocking.
///
/// # Errors
/// When the address cannot be bound; the message names it.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let bind = || {
        let socket =
            Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    bind().map_err(|error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => "; another process listens there: `ss -ltnp` names it",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
            _ => "",
        };
        io::Error::new(error.kind(), format!("listen on {address}: {error}{hint}"))
    })
}

/// A listening Unix socket that only the owner may connect to. A socket file that nobody answers on is replaced.
///
/// # Errors
/// When somebody answers on it, or it cannot be made; the message names the path.
pub fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("listen on {}: {error}", path.display()));
    match UnixStream::connect(path) {
        Ok(_) => {
            let message = "another portolan answers there; stop it or choose another path";
            return Err(named(io::Error::new(io::ErrorKind::AddrInUse, message)));
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(named)?
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(named)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(named)?;
    listener.set_nonblocking(true).map_err(named)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_listeners_share_an_address() {
        let first = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        assert!(listen(address).is_ok());
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = listen(taken.local_addr().unwrap()).unwrap_err();
        assert!(error.to_string().contains("ss -ltnp"), "{error}");
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let living = listen_unix(&path).unwrap();
        assert!(listen_unix(&path).unwrap_err().to_string().contains("another portolan"));
        drop(living);
        assert!(path.exists());
        drop(listen_unix(&path).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
