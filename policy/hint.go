package policy

import (
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Near says what may be meant where a presented value is not what is expected:
// in what the two differ, if that is little, and what to do. It is empty if they
// are not near. It repeats nothing of either.
func Near(presented, expected any) string { return near(presented, expected) }

func near(presented, expected any) string {
	if list, ok := expected.([]any); ok {
		for _, e := range list {
			if hint := near(presented, e); hint != "" {
				return hint
			}
		}
		return ""
	}
	switch p := presented.(type) {
	case []any:
		for i, e := range p {
			if hint := near(e, expected); hint != "" {
				return fmt.Sprintf("value %d of the list: %s", i+1, hint)
			}
		}
	case map[string]any:
		return "the claim is an object; compare a member of it with an expression in when"
	case string:
		switch e := expected.(type) {
		case string:
			return nearText(p, e)
		case int64, float64, bool:
			if p == fmt.Sprint(e) {
				return "the token has a string; put the value of the rule in quotes"
			}
		}
	case int64, float64, bool:
		if e, ok := expected.(string); ok && e == fmt.Sprint(p) {
			return "the token has no string; take the quotes off the value of the rule"
		}
	}
	return ""
}

// nearClaim also looks for claims of a name like the one that is missing.
func nearClaim(t *Token, name string, expected any) string {
	got, ok := t.Claims[name]
	if ok {
		return near(got, expected)
	}
	return nearName(t, name)
}

func nearName(t *Token, name string) string {
	for _, other := range slices.Sorted(maps.Keys(t.Claims)) {
		if foldName(other) == foldName(name) {
			return fmt.Sprintf("the token has a claim %q; names of claims are compared with their case", other)
		}
	}
	return strings.TrimPrefix(DidYouMean(name, t.Claims), "; ")
}

// nearGlobClaim is nearClaim for a pattern.
func nearGlobClaim(t *Token, name, pattern string) string {
	got, ok := t.Claims[name]
	if !ok {
		return nearName(t, name)
	}
	switch v := got.(type) {
	case string:
		return nearGlob(v, pattern)
	case []any:
		for _, e := range v {
			if s, ok := e.(string); ok && glob(pattern, s) {
				return "the claim is a list, of which one value fits; a pattern is for a single string, so name the value under claims or use when"
			}
		}
		return "the claim is a list; a pattern is for a single string"
	default:
		return "the claim is not a string; a pattern is for strings"
	}
}

// nearGlob says why a value does not fit a pattern that it seems to fit.
func nearGlob(s, pattern string) string {
	fits := func(s, pattern string) bool { return glob(pattern, s) }
	switch {
	case fits(strings.TrimSpace(s), pattern):
		return "the token has white space around the value"
	case fits(strings.ToLower(s), strings.ToLower(pattern)):
		return "differs in upper and lower case alone, which counts"
	case fits(strings.TrimSuffix(s, "/"), pattern), fits(s+"/", pattern):
		return "differs in a slash at the end alone, which counts"
	case plainSubject(s) != s && fits(plainSubject(s), pattern):
		return githubShape
	case crosses(pattern, s):
		return "a * does not cross / or :, so that a pattern cannot match more than it seems to; write one * for each segment"
	case fits(refName(s), pattern) || fits(s, refName(pattern)):
		return refShape
	}
	return ""
}

// crosses tells whether a pattern would fit if * crossed separators. Parts are
// found from left to right, which is right for stars that match anything.
func crosses(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	rest, ok := strings.CutPrefix(s, parts[0])
	if !ok {
		return false
	}
	last := parts[len(parts)-1]
	for _, part := range parts[1 : len(parts)-1] {
		if _, rest, ok = strings.Cut(rest, part); !ok {
			return false
		}
	}
	return strings.HasSuffix(rest, last)
}

const (
	githubShape = "the token has the newer form of a subject of GitHub, repo:owner@id/name@id:..., and the rule the older one; match repository_id and repository_owner_id, which fit both, or write the ids into the rule"
	githubOlder = "the rule has the newer form of a subject of GitHub, repo:owner@id/name@id:..., and the token the older one; match repository_id and repository_owner_id, which fit both"
	refShape    = "one is the full name of a ref, refs/heads/..., and the other the short one; write it as the token has it"
)

// nearText compares two strings.
func nearText(p, e string) string {
	switch {
	case strings.TrimSpace(p) == strings.TrimSpace(e):
		return "differs in white space at an end alone, which counts"
	case strings.EqualFold(p, e):
		return "differs in upper and lower case alone, which counts"
	case strings.TrimSuffix(p, "/") == strings.TrimSuffix(e, "/"):
		return "differs in a slash at the end alone, which counts"
	case plainSubject(p) == e:
		return githubShape
	case plainSubject(e) == p:
		return githubOlder
	case refName(p) == e || refName(e) == p:
		return refShape
	}
	if hint := nearURL(p, e); hint != "" {
		return hint
	}
	if n := min(len(p), len(e)); n > 4 && n <= 255 && editDistance(p, e, 3) < 3 {
		return "differs in a character or two; is one of them mistyped?"
	}
	return ""
}

func refName(s string) string {
	for _, prefix := range []string{"refs/heads/", "refs/tags/"} {
		if name, ok := strings.CutPrefix(s, prefix); ok {
			return name
		}
	}
	return s
}

// githubID is the id after the name of an owner or a repository in the newer
// subjects of GitHub.
var githubID = regexp.MustCompile(`^(repo:[^/@:]+)@[0-9]+/([^/@:]+)@[0-9]+(:|$)`)

// plainSubject is a subject of GitHub without the ids of its newer form.
func plainSubject(s string) string { return githubID.ReplaceAllString(s, "$1/$2$3") }

var defaultPorts = map[string]string{"https": "443", "http": "80"}

// nearURL compares two URLs.
func nearURL(p, e string) string {
	a, errA := url.Parse(p)
	b, errB := url.Parse(e)
	if errA != nil || errB != nil {
		return ""
	}
	if (a.Scheme == "") != (b.Scheme == "") && strings.TrimPrefix(withoutScheme(p), "//") == strings.TrimPrefix(withoutScheme(e), "//") {
		return "one has a scheme, such as https://, and the other has not"
	}
	if a.Host == "" || b.Host == "" || a.Path != b.Path && strings.TrimSuffix(a.Path, "/") != strings.TrimSuffix(b.Path, "/") {
		return ""
	}
	switch {
	case !strings.EqualFold(a.Hostname(), b.Hostname()):
		return ""
	case a.Scheme != b.Scheme:
		return "differs in the scheme: one is " + scheme(a) + " and the other " + scheme(b)
	case a.Port() != b.Port():
		if port(a) == port(b) {
			return "one writes out the port that its scheme has anyway; they are compared as they are written"
		}
		return "differs in the port"
	case a.Host != b.Host:
		return "differs in upper and lower case of the host alone; they are compared as they are written"
	}
	return ""
}

func withoutScheme(s string) string {
	if _, rest, ok := strings.Cut(s, "://"); ok {
		return rest
	}
	return s
}

// scheme names a scheme of the web; any other can be anything.
func scheme(u *url.URL) string {
	if _, ok := defaultPorts[u.Scheme]; ok {
		return u.Scheme
	}
	return "another"
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	return defaultPorts[u.Scheme]
}

// foldIdentifier is an identifier of an Audience without what people get wrong about
// it: case, a slash at the end, white space, and whether it has a scheme.
func foldIdentifier(id string) string {
	return strings.ToLower(strings.TrimRight(withoutScheme(strings.TrimSpace(id)), "/"))
}

// fewIdentifiers are so few that each can be compared with one that is not known.
const fewIdentifiers = 1000

// nearAudience says which identifier of an Audience may be meant by one that is not
// known. It does not repeat that, which can be anything.
func (s *Set) nearAudience(id string) []Reason {
	near, ok := s.folded[foldIdentifier(id)]
	if !ok && len(s.audiences) <= fewIdentifiers && len(id) <= maxShown {
		near = nearest(id, s.audiences)
	}
	if near == "" {
		return nil
	}
	hint := nearText(id, near)
	if hint == "" {
		hint = "differs in little; identifiers are compared as they are written"
	}
	return []Reason{{Predicate: "audience", Presented: "an audience or resource that is not defined", Expected: show(near, true), Hint: hint}}
}

// nearAny is the first hint about one of several values.
func nearAny(presented string, expected []string) string {
	for _, e := range expected {
		if hint := nearText(presented, e); hint != "" {
			return hint
		}
	}
	return ""
}

// cutList writes a list in one line, and not all of it if it is long.
func cutList(list []string) string {
	var b strings.Builder
	for i, s := range list {
		if i > 0 {
			b.WriteByte(' ')
		}
		if b.Len()+len(s) > maxShown {
			return b.String() + "and " + strconv.Itoa(len(list)-i) + " more"
		}
		b.WriteString(s)
	}
	return b.String()
}
