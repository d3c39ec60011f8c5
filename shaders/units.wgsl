// units: what scatter and advance share: which unit of the chunk an invocation owns, the sequence's new
// length, and the choice between keys and values.
//
// Grid:    x and y together count units of the chunk, [plane, run, unit], in workgroups;
//          z = 0 is keys, z = 1 is values.
// Shapes:  lengths   [sequence]

@group(0) @binding(0) var<uniform> chunk: Chunk;
@group(0) @binding(1) var<storage, read_write> lengths: array<u32>;

struct Unit {
    exists: bool,
    plane: u32,    // counted inside the chunk
    sequence: u32,
    head: u32,
    index: u32,    // inside the run
    run: Run,
}

fn unit_of(group: vec3<u32>, groups: vec3<u32>, local: u32) -> Unit {
    let index = (group.y * groups.x + group.x) * WORKGROUP_SIZE + local;
    let units = select(value_units(step.rows), key_units(step.rows), group.z == 0u);
    var unit = Unit();
    unit.exists = index < chunk.planes * step.runs_per_sequence * units;
    if unit.exists {
        unit.index = index % units;
        unit.plane = index / units / step.runs_per_sequence;
        unit.sequence = (chunk.first_plane + unit.plane) / chunk.heads;
        unit.head = (chunk.first_plane + unit.plane) % chunk.heads;
        let run = (index / units) % step.runs_per_sequence;
        unit.run = step.runs[unit.sequence * step.runs_per_sequence + run];
    }
    return unit;
}

// One invocation sets the length of each sequence that the chunk writes to.
fn set_length(unit: Unit, side: u32) {
    let first = unit.index == 0u && (unit.plane == 0u || unit.head == 0u);
    if side == 0u && first && unit.run.end > unit.run.start {
        lengths[unit.sequence] = unit.run.length;
    }
}

fn write_unit(unit: Unit, side: u32, run: Run) {
    let plane = chunk.segment_plane + unit.plane;
    if side == 0u {
        key_write(plane, unit.sequence, unit.head, run, unit.index);
    } else {
        value_write(plane, unit.sequence, unit.head, run, unit.index);
    }
}
