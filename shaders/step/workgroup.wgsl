// workgroup: threads of a workgroup, in every kernel but attention's.

const WORKGROUP_SIZE = 256u;
