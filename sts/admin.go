package sts

import (
	"context"
	"maps"
	"slices"
)

// Resource returns a resource and the revision that it was read at.
func (s *Service) Resource(ref Ref) (Resource, int64, error) {
	st := s.state.Load()
	r, ok := st.resources[ref]
	if !ok {
		return Resource{}, 0, &Error{Code: NotFound, Message: "there is no such resource"}
	}
	return r, st.revision, nil
}

// Resources returns up to limit resources of a kind, or of all kinds if it is
// empty, that come after a given one in the order of kind and name, whether
// there are more, and the revision.
func (s *Service) Resources(kind Kind, after Ref, limit int) (page []Resource, more bool, revision int64) {
	return s.state.Load().page(kind, after, limit)
}

// ResourcesAt is Resources of a revision that is kept.
func (s *Service) ResourcesAt(ctx context.Context, p Place, kind Kind, after Ref, limit int) (page []Resource, more bool, revision int64, err error) {
	kept, err := s.Revision(ctx, p)
	if err != nil {
		return nil, false, 0, err
	}
	st := &state{revision: kept.Number, resources: byRef(kept.Resources)}
	st.order = slices.SortedFunc(maps.Keys(st.resources), compareRefs)
	page, more, revision = st.page(kind, after, limit)
	return page, more, revision, nil
}

func (st *state) page(kind Kind, after Ref, limit int) (page []Resource, more bool, revision int64) {
	start := 0
	if after != (Ref{}) {
		var found bool
		if start, found = slices.BinarySearchFunc(st.order, after, compareRefs); found {
			start++
		}
	}
	for _, ref := range st.order[start:] {
		if kind != "" && ref.Kind != kind {
			continue
		}
		if len(page) == limit {
			return page, true, st.revision
		}
		page = append(page, st.resources[ref])
	}
	return page, false, st.revision
}
