package storage

import "context"

// inPages calls f with the entries below a prefix, in the order of their keys, of
// which there may be too many for one answer. It returns the revision of the first
// page: what later pages have that is newer, a watch from there tells again.
func inPages(ctx context.Context, kv KV, prefix string, size int, f func(Entry) error) (revision int64, err error) {
	for after := ""; ; {
		page, at, err := kv.List(ctx, prefix, after, size)
		if err != nil {
			return 0, err
		}
		if after == "" {
			revision = at
		}
		for _, e := range page {
			if err := f(e); err != nil {
				return 0, err
			}
			after = e.Key
		}
		if len(page) < size {
			return revision, nil
		}
	}
}
