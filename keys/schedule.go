package keys

import (
	"fmt"
	"time"
)

// Schedule says when keys are replaced. It is safe if no verifier that caches
// the key set as long as it was told ever meets a token whose key it does not
// know; [Schedule.Check] tells whether it is.
type Schedule struct {
	Period       time.Duration // how long a key signs; 0: until somebody rotates it
	PublishAhead time.Duration // how long a key is published before it signs
	Retain       time.Duration // how long a key stays published after it signed last
	MaxAge       time.Duration // longest that verifiers may cache the key set
	Skew         time.Duration // most that two clocks differ, of nodes or verifiers
}

// DefaultSchedule is a month of signing, announced an hour ahead. An hour is more
// than the key set's max-age asks for: some verifiers cache longer than they are
// told.
func DefaultSchedule() Schedule {
	s := Schedule{Period: 30 * 24 * time.Hour, PublishAhead: time.Hour, MaxAge: 5 * time.Minute, Skew: 30 * time.Second}
	s.Retain = maxTokenLifetime + s.Skew
	return s
}

const (
	maxTokenLifetime = 24 * time.Hour // longest that any Audience may ask for
	minTokenLifetime = 10 * time.Second
	maxPublished     = 30 // keys of one set at a time, about
)

// MaxTokenLifetime is the longest lifetime of a token whose key stays published
// until it has expired, on the slowest clock.
func (s Schedule) MaxTokenLifetime() time.Duration {
	return min(s.Retain-s.Skew, maxTokenLifetime)
}

// ScheduleProblem is something that makes a schedule unsafe.
type ScheduleProblem struct {
	Field   string // period, publish_ahead, retain, jwks_max_age or clock_skew
	Message string
}

// Check returns everything that is wrong with the schedule, with the numbers.
func (s Schedule) Check() []ScheduleProblem {
	var out []ScheduleProblem
	bad := func(field, format string, args ...any) {
		out = append(out, ScheduleProblem{field, fmt.Sprintf(format, args...)})
	}
	if s.MaxAge < time.Second || s.MaxAge > 24*time.Hour {
		bad("jwks_max_age", "is %s; it must be between 1s and 24h", s.MaxAge)
	}
	if s.Skew < 0 || s.Skew > 10*time.Minute {
		bad("clock_skew", "is %s; it must be between 0s and 10m", s.Skew)
	}
	if least := s.MaxAge + s.Skew; s.PublishAhead < least {
		bad("publish_ahead", "is %s; it must be at least %s, which is jwks_max_age (%s) and clock_skew (%s) together: else a verifier with a cached key set meets tokens of a key that it does not know",
			s.PublishAhead, least, s.MaxAge, s.Skew)
	}
	if least := minTokenLifetime + s.Skew; s.Retain < least {
		bad("retain", "is %s; it must be at least %s, which is the shortest lifetime of a token (%s) and clock_skew (%s) together: else a token outlives its published key",
			s.Retain, least, minTokenLifetime, s.Skew)
	}
	if s.Period > 0 && s.Retain/s.Period >= maxPublished {
		bad("period", "is %s, so that %d keys of a set would be published at a time, each for %s (retain): many verifiers take no more than 100; make it longer, or retain shorter", s.Period, s.Retain/s.Period+2, s.Retain)
	}
	if s.Period != 0 && s.Period < s.PublishAhead {
		bad("period", "is %s; it must be at least publish_ahead (%s), or 0 to rotate only when asked: else keys are made faster than they can be announced", s.Period, s.PublishAhead)
	}
	return out
}
