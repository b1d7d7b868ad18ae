//! A whole disk on arbitrary bytes: partitions, file systems, kernels. Start it with a small ext4 file system in the corpus.
#![no_main]

use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use supervisor::image::contents::{Contents, ReadAt};

fuzz_target!(|data: &[u8]| {
    let disk: Rc<dyn ReadAt> = Rc::new(data.to_vec());
    let Ok(contents) = Contents::read(&disk) else { return };
    if let Ok(files) = &contents.boot {
        let _ = contents.extract(&files.kernel, &mut std::io::sink());
    }
});
