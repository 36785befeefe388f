package sts

import "time"

// Line is a sequence of revisions of the resources. Each has numbers of its own,
// from 1.
type Line string

// The lines.
const (
	Live   Line = "live"   // decides
	Shadow Line = "shadow" // is tried out beside it
)

// Place names a revision.
type Place struct {
	Line   Line
	Number int64
}

// Heads are the numbers of the revisions in force, 0 for none.
type Heads struct {
	Live, Shadow int64
	Confirmed    time.Time // by the clock of this process: they were in force at a moment after this
}

// Revision is what is known about one besides its resources.
type Revision struct {
	Number   int64     `json:"revision"`
	Base     int64     `json:"base"`               // live revision that it changes; 0: none
	Restores int64     `json:"restores,omitempty"` // live revision that it goes back to
	Promotes int64     `json:"promotes,omitempty"` // shadow revision that it was
	Time     time.Time `json:"time"`
	By       Principal `json:"by"`
	Why      string    `json:"why,omitempty"`
	Size     int       `json:"resources"` // how many it has; said by the store
	Created  Refs      `json:"created,omitzero"`
	Updated  Refs      `json:"updated,omitzero"`
	Deleted  Refs      `json:"deleted,omitzero"`
}

// Contents are a revision with its resources, in no order.
type Contents struct {
	Revision
	Resources []Resource
}

// Refs counts resources, and names the first of them.
type Refs struct {
	Count int   `json:"count"`
	First []Ref `json:"first,omitempty"`
}

// maxRefs is how many resources of a change its revision names.
const maxRefs = 50

// Add counts resources.
func (r *Refs) Add(refs ...Ref) {
	r.Count += len(refs)
	r.First = append(r.First, refs[:min(len(refs), maxRefs-len(r.First))]...)
}

func refsOf(refs []Ref) Refs {
	var r Refs
	r.Add(refs...)
	return r
}

// Commit is a revision to be made. Its Number and Size, the
// store says.
type Commit struct {
	Revision
	Line       Line
	Expected   int64 // number of the line that must be in force
	EndsShadow int64 // if not 0: the shadow revision that must be in force, and is not afterwards

	// The resources are those of a revision that is there, number 0 standing for
	// none, but for these.
	From   Place
	Put    []Resource
	Delete []Ref
}

// MaxResourceSize is the most bytes that a resource has as JSON.
const MaxResourceSize = 512 << 10
