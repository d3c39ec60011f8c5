// linear: stores position p in slot p.

#import planes.wgsl

fn reader_slot(position: u32) -> u32 {
    return position;
}
