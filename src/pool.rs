//! A few threads for requests that may take long: syncing, copying.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use parking_lot::Mutex;

/// Something to do.
pub type Job = Box<dyn FnOnce() + Send>;

const THREADS: usize = 4;
const QUEUED: usize = 256;

/// The threads.
#[derive(Debug)]
pub struct Pool {
    sender: Mutex<Option<SyncSender<Job>>>,
}

impl Pool {
    /// Starts the threads.
    pub fn new() -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel::<Job>(QUEUED);
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..THREADS {
            let receiver = receiver.clone();
            std::thread::Builder::new()
                .name(format!("slow-{number}"))
                .spawn(move || work(&receiver))?;
        }
        Ok(Self {
            sender: Mutex::new(Some(sender)),
        })
    }

    /// Hands a job over; gives it back if too many wait already.
    pub fn run(&self, job: Job) -> Option<Job> {
        let sender = self.sender.lock().clone();
        match sender {
            None => Some(job),
            Some(sender) => match sender.try_send(job) {
                Ok(()) => None,
                Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => Some(job),
            },
        }
    }

    /// Lets the threads end when what was handed over is done.
    pub fn stop(&self) {
        self.sender.lock().take();
    }
}

fn work(receiver: &Mutex<Receiver<Job>>) {
    loop {
        // Taken out in a statement of its own: the lock must not be held while the job runs.
        let job = receiver.lock().recv();
        match job {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}
