package vault

import (
	"iter"
	"time"
)

// item is a signature that a caller waits for. It is answered once, by whoever
// took it out of the queue.
type item struct {
	input   []byte // what is sent: a digest or a copy, for the caller may leave
	arrived time.Time
	answer  chan signResult // has room for the answer

	next, previous *item // in the queue
	in             *queue
	kept           bool // by a call under way: not to be used again
}

// queue has items, oldest first: those that are not sent yet, or those that are.
// To leave it takes the same time however long it is: callers leave when Vault is
// slow and it is long.
type queue struct {
	first, last *item
	length      int
}

func (q *queue) push(it *item) {
	it.in, it.previous = q, q.last
	if q.last != nil {
		q.last.next = it
	} else {
		q.first = it
	}
	q.last = it
	q.length++
}

// remove takes an item out, and tells whether it was in.
func (q *queue) remove(it *item) bool {
	if it.in != q {
		return false
	}
	if it.previous != nil {
		it.previous.next = it.next
	} else {
		q.first = it.next
	}
	if it.next != nil {
		it.next.previous = it.previous
	} else {
		q.last = it.previous
	}
	it.next, it.previous, it.in = nil, nil, nil
	q.length--
	return true
}

// take takes out one item after the other.
func (q *queue) take() iter.Seq[*item] {
	return func(yield func(*item) bool) {
		for it := q.first; it != nil; it = q.first {
			q.remove(it)
			if !yield(it) {
				return
			}
		}
	}
}
