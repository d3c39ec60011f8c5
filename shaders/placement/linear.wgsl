// linear: where a position lies in a plane: in the slot of its number.

fn reader_slot(position: u32) -> u32 {
    return position;
}
