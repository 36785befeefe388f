package storage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/workload-sts/sts/policy"
)

// maxRaces is how often others may come first, one after the other, before a count
// is given up.
const maxRaces = 32

// Count implements sts.Transactions, by comparing and swapping: the counts of one
// call change together, on whatever node.
func (s *Store) Count(ctx context.Context, txn string, uses []policy.Uses, until time.Time) (exhausted string, err error) {
	if 2*len(uses) > MaxTxn {
		return "", fmt.Errorf("%d rules count their uses at once, at most %d can", len(uses), MaxTxn/2)
	}
	for i := range maxRaces {
		compare, ops := make([]Compare, 0, len(uses)), make([]Op, 0, len(uses))
		for _, u := range uses {
			key := countPrefix + txn + "/" + u.Rule
			e, n, err := s.count(ctx, key)
			switch {
			case err != nil:
				return "", err
			case n >= u.Most:
				return u.Rule, nil
			}
			compare = append(compare, Compare{Key: key, Revision: e.Revision})
			op := Op{Key: key, Value: strconv.AppendInt(nil, int64(n+1), 10), Expires: until}
			if e.Expires.After(until) {
				op.Expires = e.Expires
			}
			ops = append(ops, op)
		}
		_, done, err := s.kv.Txn(ctx, compare, ops)
		if err != nil {
			return "", fmt.Errorf("counting the uses of a transaction: %w", err)
		}
		if done {
			return "", nil
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(rand.N(time.Duration(i+1) * time.Millisecond)):
		}
	}
	return "", errors.New("counting the uses of a transaction: others came first again and again")
}

// count reads a count; 0 without an entry.
func (s *Store) count(ctx context.Context, key string) (Entry, int, error) {
	e, err := s.kv.Get(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return Entry{}, 0, nil
	}
	if err != nil {
		return Entry{}, 0, fmt.Errorf("reading the uses of a transaction: %w", err)
	}
	n, err := strconv.Atoi(string(e.Value))
	if err != nil {
		return Entry{}, 0, fmt.Errorf("the uses of a transaction, %q, are not a number", e.Value)
	}
	return e, n, nil
}
