// linear: stores position p in slot p.

fn reader_slot(position: u32) -> u32 {
    return position;
}
