//! Questions over UDP, a bounded number of them on the way at once, and how many were answered. It takes no answer for one that is not: a
//! wrong number, an error or an answer without a record ends the measurement.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use portolan_dns::name::Name;

/// Questions on the way at once: enough that a server is never idle, and less than any socket holds.
const WINDOW: usize = 32;
/// How long an answer is waited for on the loopback before it counts as lost.
const PATIENCE: Duration = Duration::from_millis(500);
/// Of so many questions one may be lost; what loses more is not measured but broken.
const LOST_ONE_IN: u32 = 100;
/// Bytes of an answer that are read: more than any of these has.
const ANSWER_BYTES: usize = 1_500;

/// What questions have besides a name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// EDNS, as every resolver has it.
    Plain,
    /// The network of the client too (RFC 7871), as some public resolvers say it.
    Subnet,
}

impl Shape {
    pub(crate) const ALL: [Self; 2] = [Self::Plain, Self::Subnet];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Subnet => "subnet",
        }
    }
}

/// Asks one server.
pub(crate) struct Load {
    questions: Vec<Vec<u8>>,
    random: u64,
    socket: UdpSocket,
}

impl Load {
    /// Servers that are asked with the same seed are asked the same.
    pub(crate) fn new(server: SocketAddr, names: &[Name], shape: Shape, seed: u64) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let questions = names.iter().map(|name| question(name, shape)).collect();
        Self { questions, random: seed, socket }
    }

    /// Asks until there are so many answers, and gives how many questions had none.
    pub(crate) fn ask(&mut self, answers: u32) -> u32 {
        let mut awaited = vec![false; 1 << 16];
        let (mut next, mut under_way, mut answered, mut lost) = (0_u16, 0_usize, 0_u32, 0_u32);
        let mut buffer = [0; ANSWER_BYTES];
        while answered < answers {
            while under_way < WINDOW.min((answers - answered) as usize) {
                next = next.wrapping_add(1);
                self.send(next);
                *awaited.get_mut(usize::from(next)).expect("there is a place for each number") = true;
                under_way += 1;
            }
            // An error says that nobody listens, or that it took too long: either way the questions are lost.
            let Ok(length) = self.socket.recv(&mut buffer) else {
                lost += u32::try_from(under_way).unwrap();
                assert!(lost <= WINDOW as u32 + answers / LOST_ONE_IN, "{lost} questions were not answered");
                awaited.fill(false);
                under_way = 0;
                continue;
            };
            let id = number(buffer.get(..length).unwrap());
            // What comes after it counted as lost is not counted again.
            if std::mem::take(awaited.get_mut(usize::from(id)).expect("there is a place for each number")) {
                under_way -= 1;
                answered += 1;
            }
        }
        lost
    }

    fn send(&mut self, id: u16) {
        // Knuth's: no more than that all names come, in an order that no cache foresees.
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (self.random >> 33) as usize % self.questions.len();
        let question = self.questions.get_mut(at).expect("it is less than their number");
        question.get_mut(..2).unwrap().copy_from_slice(&id.to_be_bytes());
        // What cannot be sent is not answered, and counted then.
        drop(self.socket.send(question));
    }
}

/// Does the server answer yet? It is given its time: a socket that is not connected is not told that nobody listens.
pub(crate) fn is_answered(server: SocketAddr, name: &Name) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(&question(name, Shape::Plain), server).unwrap();
    socket.recv(&mut [0; ANSWER_BYTES]).is_ok()
}

/// A question for the name's IPv4 address, without its number (RFC 1035, section 4; RFC 6891, section 6.1).
fn question(name: &Name, shape: Shape) -> Vec<u8> {
    let mut wire = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    wire.extend(name.wire());
    wire.extend([0, 1, 0, 1]);
    wire.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0]);
    match shape {
        Shape::Plain => wire.extend([0, 0]),
        Shape::Subnet => wire.extend([0, 11, 0, 8, 0, 7, 0, 1, 24, 0, 198, 51, 100]),
    }
    wire
}

/// The number of an answer that has no error and one record at least.
fn number(answer: &[u8]) -> u16 {
    let &[one, two, flags, code, _, _, high, low, ..] = answer else {
        panic!("an answer of {} bytes has no head", answer.len());
    };
    assert!(
        flags & 0x82 == 0x80 && code & 0x0f == 0 && (high, low) != (0, 0),
        "the answer begins with {answer:02x?}"
    );
    u16::from_be_bytes([one, two])
}
