package server

import (
	"cmp"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// Route is a method of a service as it is served under /v1/, as its annotation in
// the protos says.
type Route struct {
	Verb   string                        // of HTTP
	Path   string                        // template, such as /v1/resources/{kind}/{name=**}
	Method protoreflect.MethodDescriptor // of gRPC
	Params []string                      // fields of the request in the path
	Query  []string                      // fields of the request that are parameters of the URL
	Body   string                        // field of the request that is the body; "*": what is left; "": there is none

	matches *regexp.Regexp
}

// Routes lists the routes, in the order of the protos.
func Routes() []Route { return slices.Clone(routes) }

// routes are those of the services that the gateway serves.
var routes = slices.Concat(
	routesOf(stsv1.File_sts_v1_token_proto.Services().ByName("TokenService")),
	routesOf(stsv1.File_sts_v1_admin_proto.Services().ByName("AdminService")),
)

func routesOf(s protoreflect.ServiceDescriptor) []Route {
	var out []Route
	for i := range s.Methods().Len() {
		m := s.Methods().Get(i)
		rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
		if rule == nil {
			continue
		}
		for _, each := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
			out = append(out, newRoute(m, each))
		}
	}
	return out
}

// parameter is a field of the request in a template.
var parameter = regexp.MustCompile(`\{([a-z_]+)(=[^}]*)?\}`)

func newRoute(m protoreflect.MethodDescriptor, rule *annotations.HttpRule) Route {
	r := Route{Method: m, Body: rule.GetBody()}
	for verb, path := range map[string]string{
		http.MethodGet: rule.GetGet(), http.MethodPost: rule.GetPost(), http.MethodPut: rule.GetPut(), http.MethodDelete: rule.GetDelete(),
	} {
		if path != "" {
			r.Verb, r.Path = verb, path
		}
	}
	pattern, rest := "^", r.Path
	for _, found := range parameter.FindAllStringSubmatch(r.Path, -1) {
		r.Params = append(r.Params, found[1])
		before, after, _ := strings.Cut(rest, found[0])
		pattern += regexp.QuoteMeta(before) + map[bool]string{false: "[^/]+", true: ".+"}[found[2] == "=**"]
		rest = after
	}
	r.matches = regexp.MustCompile(pattern + regexp.QuoteMeta(rest) + "$")
	fields := m.Input().Fields()
	for i := range fields.Len() {
		name := string(fields.Get(i).Name())
		if r.Body != "*" && r.Body != name && !slices.Contains(r.Params, name) {
			r.Query = append(r.Query, name)
		}
	}
	return r
}

// routeOf finds the route of a request by what the gateway found: a method of HTTP
// and a pattern, which says `{kind=*}` for `{kind}`.
func routeOf(verb, pattern string) (Route, bool) {
	for _, r := range routes {
		if r.Verb == verb && strings.ReplaceAll(pattern, "=*}", "}") == r.Path {
			return r, true
		}
	}
	return Route{}, false
}

// allowed lists the methods of a path under /v1/ [RFC 9110 §15.5.6].
func allowed(path string) string {
	order := []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete}
	var verbs []string
	for _, r := range routes {
		if r.matches.MatchString(path) && !slices.Contains(verbs, r.Verb) {
			verbs = append(verbs, r.Verb)
		}
	}
	slices.SortFunc(verbs, func(a, b string) int { return cmp.Compare(slices.Index(order, a), slices.Index(order, b)) })
	return strings.Join(verbs, ", ")
}

// Access is what a caller of a method needs.
type Access struct {
	Admin bool // access to the admin interface; else the request itself authenticates, or needs not
	Write bool // that may change things
}

// AccessOf says what a caller of a method needs, by its name, such as
// /sts.v1.AdminService/Apply.
func AccessOf(method string) Access {
	w := accessTo[method].who
	return Access{Admin: w == readers || w == writers, Write: w == writers}
}

// fullMethod is the name of a method as gRPC writes it.
func fullMethod(m protoreflect.MethodDescriptor) string {
	return "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
}
